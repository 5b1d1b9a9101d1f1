"""How good the choice without labels is: `reduce: "auto"` beside each option by itself, judged by labels afterwards.

For each set: which option is picked with k as many as classes, and with `clusters: "auto"`; accuracy, NMI and ARI of
the pick, of plain k-means and of each other option at the same number of clusters. Then over all sets: how often the
pick is better than plain k-means, how far it is from the best option; the same of always taking one option, and of
picking by another figure that needs no labels.

Sets: Tux Paint's stamps and Google's emoji (those of `shoal demo`), all of Google's emoji by subcategory, clip art and
Oxygen's icons by folder (Debian's `openclipart-png` and `oxygen-icon-theme`), Fashion-MNIST, all embedded by
EfficientNet-Lite0; scikit-learn's digits, wine, breast cancer and iris; planted groups of four shapes, each with
several seeds.

    python benchmarks/choice.py [--sets stamps emoji …] [--fashion 10000] [--planted 2] [--work FOLDER] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from _common import finish, parser
from _labelled_sets import embed, make_sets, store_rows
from _planted import SHAPES, planted
from clusterer import pipeline
from clusterer.data.rows import Rows, StoredRows
from clusterer.evaluation.label_metrics import score_set
from clusterer.evaluation.neighbourhood import neighbours_kept
from clusterer.evaluation.unsupervised import internal_metrics
from clusterer.jobs import steps
from clusterer.jobs.memory import problem_of
from clusterer.jobs.plan import Plan, make_plan
from clusterer.jobs.site import Site, open_site
from clusterer.neighbours import nearest_rows
from numpy.typing import NDArray
from reduce import figures_of
from shoal.cli.demo import EMOJI_PACKAGE, run, unpack_debian
from shoal.jobs.child import JobContext
from shoal.schemas import ClusterRequest, ReduceOptions
from shoal.settings import Settings
from shoal.store import Store

SEEDS: Final = [0, 1, 2]
TABLES: Final = ("digits", "wine", "cancer", "iris")
IMAGES: Final = ("stamps", "emoji", "emoji-all", "clipart", "icons", "fashion")
PER_CLASS, FEWEST = 150, 10
FIGURES: Final = ("acc", "nmi", "ari")
PLAIN: Final = "none"
MOST_NEIGHBOURS: Final = 50


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="shoal-choice-") as temporary:
        work = options.work or Path(temporary)
        settings = Settings(data=work / "data", models=work / "models", store=work / "store", offline=True)
        settings.data.mkdir(parents=True, exist_ok=True)
        found = {}
        for name, make in makers(settings, work, options).items():
            kept = work / f"choice-{name}.json"
            if not kept.exists():
                kept.write_text(json.dumps(measure(settings, make())))
            found[name] = json.loads(kept.read_text())
            show(name, found[name])
    summary = summarize(found)
    for rule, row in summary.items():
        print(f"{rule:28} " + "  ".join(f"{name} {value}" for name, value in row.items()))
    finish({"benchmark": "choice", "seeds": SEEDS, "sets": found, "summary": summary}, as_json=options.json)


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--sets", nargs="+", default=[*IMAGES, *TABLES, *SHAPES])
    made.add_argument("--fashion", type=int, default=10_000, help="images of Fashion-MNIST (%(default)s)")
    made.add_argument("--planted", type=int, default=2, help="seeds of each planted shape (%(default)s)")
    made.add_argument("--work", type=Path, help="keep images, store and figures here; a temporary folder by default")
    return made.parse_args()


def makers(settings: Settings, work: Path, options: argparse.Namespace) -> dict[str, Callable[[], str]]:
    """By name, what puts a set into the store and returns its id."""
    found: dict[str, Callable[[], str]] = {}
    for name in options.sets:
        if name in SHAPES:
            for seed in range(options.planted):
                found[f"{name}-{seed}"] = lambda name=name, seed=seed: store_rows(  # type: ignore[misc]
                    Store(settings.store), f"{name}-{seed}", *planted(name, seed=seed)
                )
        elif name in TABLES:
            found[name] = lambda name=name: store_rows(Store(settings.store), name, *table(name))  # type: ignore[misc]
        else:
            found[name] = lambda name=name: images(settings, work, name, options.fashion)  # type: ignore[misc]
    return found


def table(name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows and classes of a set that scikit-learn carries; columns of other units are standardised."""
    from sklearn import datasets

    load = {"cancer": "load_breast_cancer"}.get(name, f"load_{name}")
    loaded = getattr(datasets, load)()
    rows = loaded.data
    if name in {"wine", "cancer"}:
        rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return rows.astype(np.float32), loaded.target.astype(np.int64)


def images(settings: Settings, work: Path, name: str, fashion: int) -> str:
    """The id of embedded images."""
    if name not in LAID_OUT:
        return next(iter(make_sets(settings, work, [name], [fashion]).values()))
    folder = settings.data / name
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            for label, files in LAID_OUT[name](Path(temporary)):
                link(settings.data / f"{name}.partial" / label, files)
        (settings.data / f"{name}.partial").rename(folder)
    return embed(settings, name)


def link(folder: Path, files: list[Path]) -> None:
    """Copy the first images of a class under numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for at, file in enumerate(files[:PER_CLASS]):
        (folder / f"{at:04d}{file.suffix}").write_bytes(file.read_bytes())


def icons(work: Path) -> Iterator[tuple[str, list[Path]]]:
    """Icons by what they are for."""
    root = unpack_debian("oxygen-icon-theme", work, "files") / "usr/share/icons/oxygen/base/128x128"
    for folder in sorted(root.iterdir()):
        files = [file for file in sorted(folder.glob("*.png")) if not file.is_symlink()]
        if len(files) >= 2 * FEWEST:
            yield folder.name, files


def all_emoji(work: Path) -> Iterator[tuple[str, list[Path]]]:
    """Emoji by subcategory, those without different skins."""
    run(["npm", "pack", "--silent", EMOJI_PACKAGE], work)
    with tarfile.open(next(work.glob("*.tgz"))) as archive:
        archive.extractall(work, filter="data")
    by_label: dict[str, list[Path]] = {}
    for row in sorted(json.loads((work / "package/emoji.json").read_text()), key=lambda row: row["sort_order"]):
        if row["has_img_google"] and row["category"] != "Component":
            by_label.setdefault(row["subcategory"], []).append(work / "package/img/google/64" / row["image"])
    yield from ((label, files[:60]) for label, files in by_label.items() if len(files) >= FEWEST)


LAID_OUT: Final = {"emoji-all": all_emoji, "icons": icons}


def measure(settings: Settings, embeddings: str) -> dict[str, Any]:
    """The pick and every option by itself, with k known and unknown."""
    classes = len({*Store(settings.store).embeddings(embeddings).metadata(["label"]).column("label").to_pylist()})
    known = run_all(settings, embeddings, classes)
    unknown = run_all(settings, embeddings, "auto")
    return {"rows": Store(settings.store).embeddings(embeddings).rows, "k": classes, "known": known, "unknown": unknown}


def run_all(settings: Settings, embeddings: str, clusters: int | str) -> dict[str, Any]:
    """What `POST /cluster` picks, and the figures of each option at its number of clusters, by the job's own steps."""
    request = {"embeddings": embeddings, "clusters": clusters, "reduce": "auto", "seeds": SEEDS}
    ctx = JobContext.local(request, kind="cluster")
    plan = make_plan(Store(settings.store), ClusterRequest.model_validate(request), deadline=None)
    sources = {each.id: StoredRows(each, each.id) for each in plan.sets}
    stages = pipeline.Stages(ctx, sources)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_site(ctx, settings, plan.request, problem_of([plan]), Path(folder)) as site,
    ):
        transform, _ = pipeline.fit_transform(ctx, plan, sources[embeddings], site.work, stages)
        rows = pipeline.hold_transformed(ctx, plan, transform, sources, site.work, stages)
        started = time.perf_counter()
        chosen, pick = pipeline.pick(ctx, plan, site, rows[embeddings], stages)
        if pick is None:
            raise SystemExit("nothing was picked")
        seconds, record = time.perf_counter() - started, pick.record()
        near = nearest_rows(rows[embeddings], MOST_NEIGHBOURS).rows
        options = {
            name_of(option): judge(replace(chosen, reduce=option, k=tried.best.k), ctx, site, rows, stages, near)
            for option, tried in zip(plan.tried, pick.tried, strict=True)
        }
    return {"pick": record["reduce"] or PLAIN, "seconds": round(seconds, 1), "picked": record, "options": options}


def name_of(option: ReduceOptions | None) -> str:
    """The method."""
    return PLAIN if option is None else option.method


def judge(
    plan: Plan,
    ctx: JobContext,
    site: Site,
    rows: dict[str, Rows],
    stages: pipeline.Stages,
    near: NDArray[np.int64],
) -> dict[str, float]:
    """Means over the seeds of the figures by labels, and of other figures that need none."""
    name = plan.train.id
    reduced, _ = pipeline.reduce_rows(ctx, plan, site, rows, stages)
    labelled = plan.read_labels()[name]
    each, labels = [], {}
    for seed in plan.seeds:
        fit = steps.fit_seed(
            plan, reduced[name], seed, site.engine, site.work, sample=f"sample {seed}", on_rows=lambda _: None
        ).best.fit
        labels[seed] = fit.labels
        figures = score_set(
            fit.labels, labelled.classes, k=plan.k, c=plan.train_classes, train=None, inertia=fit.inertia, seed=seed
        )
        each.append(figures_of(figures))
    silhouettes = [one["silhouette"] or 0.0 for one in internal_metrics(rows[name], labels, plan.k).values()]
    found = {figure: round(statistics.fmean(one[figure] for one in each), 4) for figure in FIGURES}
    free = {"silhouette": statistics.fmean(silhouettes)}
    for count in (10, MOST_NEIGHBOURS):
        free[f"kept {count}"] = statistics.fmean(
            neighbours_kept(near[:, :count], each, plan.k) for each in labels.values()
        )
    free["kappa 20"] = statistics.fmean(kappa(near[:, :20], each, plan.k) for each in labels.values())
    return {**found, "k": plan.k, **{name: round(value, 4) for name, value in free.items()}}


def kappa(near: NDArray[np.int64], labels: NDArray[np.int32], k: int) -> float:
    """`neighbours_kept` as a share of what is possible: Cohen's kappa."""
    possible = neighbours_kept(near, labels, k) - neighbours_share(near, labels) + 1
    return neighbours_kept(near, labels, k) / possible if possible else 0.0


def neighbours_share(near: NDArray[np.int64], labels: NDArray[np.int32]) -> float:
    """The share of nearest rows that are in the cluster of their row."""
    return float((labels[near] == labels[:, None]).mean())


def show(name: str, found: dict[str, Any]) -> None:
    """A set for people."""
    print(f"{name}, {found['rows']:,} rows, {found['k']} classes", flush=True)
    for what in ("known", "unknown"):
        part = found[what]
        tried = {each["reduce"] or PLAIN: each for each in part["picked"]["tried"]}
        for option, row in part["options"].items():
            figures = "  ".join(f"{figure} {row[figure]:.3f}" for figure in FIGURES)
            mark = "*" if option == part["pick"] else " "
            kept, stability = tried[option]["neighbours_kept"], tried[option]["stability"]
            free = f"kept {kept:.3f}  stability {stability:.3f}  silhouette {row['silhouette']:.3f}"
            print(f"  {what:8}{mark}{option:9} k {row['k']:3}  {figures}  {free}")
        print(f"  {what:8} {part['seconds']:.1f} s to pick")


def summarize(sets: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Over all sets: how a rule's options compare with plain k-means and with the best option of each set."""
    rules: dict[str, Callable[[dict[str, Any]], str]] = {
        "neighbours kept": lambda part: str(part["pick"]),
        "stability": lambda part: most(part, lambda tried, _: tried["stability"]),
        "kept x stability": lambda part: most(part, lambda tried, _: tried["neighbours_kept"] * tried["stability"]),
    }
    for figure in ("silhouette", "kept 10", f"kept {MOST_NEIGHBOURS}", "kappa 20"):
        rules[figure] = lambda part, figure=figure: most(part, lambda _, row: row[figure])  # type: ignore[misc]
    for option in next(iter(sets.values()))["known"]["options"]:
        rules[f"always {option}"] = lambda _, option=option: option  # type: ignore[misc]
    found = {}
    for what in ("known", "unknown"):
        parts = {name: each[what] for name, each in sets.items()}
        for rule, choose in rules.items():
            found[f"{what}, {rule}"] = judged_rule({name: (part, choose(part)) for name, part in parts.items()})
            if what == "unknown":
                off = [
                    abs(np.log2(part["options"][choose(part)]["k"] / sets[name]["k"])) for name, part in parts.items()
                ]
                found[f"{what}, {rule}"]["k_off_by_factor"] = round(2 ** statistics.fmean(off), 2)
    return found


def most(part: dict[str, Any], figure: Callable[[dict[str, Any], dict[str, Any]], float]) -> str:
    """The option with the largest figure, the first of equal ones."""
    tried = {each["reduce"] or PLAIN: each for each in part["picked"]["tried"]}
    return max(tried, key=lambda option: figure(tried[option], part["options"][option]))


def judged_rule(chosen: dict[str, tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """How many sets have a better, equal (within half a point) or worse figure than plain k-means; means; regret."""
    found: dict[str, Any] = {}
    for figure in FIGURES:
        mine = [part["options"][option][figure] for part, option in chosen.values()]
        plain = [part["options"][PLAIN][figure] for part, _ in chosen.values()]
        best = [max(row[figure] for row in part["options"].values()) for part, _ in chosen.values()]
        signs = [int(np.sign(round((a - b) / 0.01))) for a, b in zip(mine, plain, strict=True)]
        found[figure] = f"{statistics.fmean(mine):.3f}"
        found[f"{figure}_better_equal_worse"] = "/".join(str(signs.count(each)) for each in (1, 0, -1))
        regret = [b - a for a, b in zip(mine, best, strict=True)]
        found[f"{figure}_regret"] = f"{statistics.fmean(regret):.3f}"
        found[f"{figure}_regret_worst"] = f"{max(regret):.3f}"
    return found


if __name__ == "__main__":
    main()
