"""`GET /clusterings/{id}/export`: each file is read back by the tool that it is for.

The tools are large, and some do not install beside this project. Those that this interpreter, or the one that
`SHOAL_TOOLS_PYTHON` names, cannot import are skipped; the files' content is checked all the same.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from clusterer.api.clusterings import build
from fastapi.testclient import TestClient
from PIL import Image
from shoal.class_folders import ClassFolders
from shoal.cli import app as cli
from shoal.cli.export import source_of
from shoal.errors import PathNotFound
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering
from typer.testing import CliRunner

HOSTILE = '=cmd|"/c calc"!A0 <b>&\'ü'
PATHS = "/home/ann/my photos"


@pytest.fixture
def named(store: Store, clustering: Clustering) -> Clustering:
    """Clusters 0 and 1 share a name that must be escaped everywhere, cluster 2 is flagged, of 3 nothing is said."""
    journal = store.journal(clustering.id)
    now = journal.read()
    fields: dict[int, dict[str, str | int | None]] = {
        0: {"name": HOSTILE},
        1: {"merged_into": 0},
        2: {"name": "hats", "flag": "review"},
    }
    now = journal.append(now, now.setting(fields), author=None)
    journal.append(now, now.moving(clustering.scored[0], {5: 2}), author=None)
    return clustering


def classes_of(clustering: Clustering) -> dict[int, str]:
    """The class of each row of the first set, by hand."""
    clusters = clustering.assignments(clustering.scored[0]).column("cluster").to_pylist()
    names = {0: HOSTILE, 1: HOSTILE, 2: "hats", 3: "cluster 3"}
    return {row: "hats" if row == 5 else names[cluster] for row, cluster in enumerate(clusters)}


def export(api: TestClient, clustering: Clustering, format_: str, **query: str) -> bytes:
    answer = api.get(f"/clusterings/{clustering.id}/export", params={"format": format_, **query})
    assert answer.status_code == 200, answer.text
    return answer.content


def images_below(folder: Path) -> None:
    """The images of the first set, all alike."""
    (folder / "train").mkdir(parents=True)
    for row in range(240):
        Image.new("RGB", (4, 3)).save(folder / "train" / f"{row:05d}.png")


def read_by(module: str, program: str, *arguments: str) -> Any:
    """What ``program`` prints as JSON in an interpreter that has ``module``; skips where there is none."""
    python = os.environ.get("SHOAL_TOOLS_PYTHON", sys.executable)
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{python} has no {module}")
    done = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_tables_have_the_cluster_of_k_means_and_the_merged_one(api: TestClient, named: Clustering) -> None:
    table = pq.read_table(io.BytesIO(export(api, named, "parquet", root=PATHS)))
    rows = table.to_pylist()
    expected = classes_of(named)
    assert {row["row"]: row["name"] or f"cluster {row['merged_cluster']}" for row in rows} == expected
    assert [row["cluster"] for row in rows] == named.assignments(named.scored[0]).column("cluster").to_pylist()
    assert rows[5]["merged_cluster"] == 2
    assert rows[5]["flag"] == "review"
    assert rows[7]["image_path"] == f"{PATHS}/train/00007.png"
    assert [json.loads(line) for line in export(api, named, "jsonl", root=PATHS).splitlines()] == rows
    assert ipc.open_stream(export(api, named, "arrow", root=PATHS)).read_all().to_pylist() == rows
    val = pq.read_table(io.BytesIO(export(api, named, "parquet", embeddings=named.scored[1])))
    assert val.num_rows == 40
    assert set(val.column("embeddings").to_pylist()) == {named.scored[1]}


def test_no_cell_of_a_csv_file_is_a_formula(api: TestClient, named: Clustering) -> None:
    text = export(api, named, "csv", root="@SUM(1)").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 240
    cells = [cell for row in rows for cell in row.values() if cell]
    assert [cell for cell in cells if cell[0] in "=+-@\t\r"] == []
    assert {row["name"] for row in rows} == {"'" + HOSTILE, "hats", ""}
    assert rows[0]["image_path"] == "'@SUM(1)/train/00000.png"


def test_pycocotools_reads_coco(api: TestClient, named: Clustering, tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    file.write_bytes(export(api, named, "coco"))
    document = json.loads(file.read_bytes())
    names = {each["id"]: each["name"] for each in document["categories"]}
    assert list(names.values()) == [HOSTILE, "hats", "cluster 3"]
    found = {each["image_id"] - 1: names[each["category_id"]] for each in document["annotations"]}
    assert found == classes_of(named)
    read = read_by(
        "pycocotools",
        "import json, sys; from pycocotools.coco import COCO; c = COCO(sys.argv[1])\n"
        "found = {each['name']: len(c.getImgIds(catIds=[each['id']])) for each in c.loadCats(c.getCatIds())}\n"
        "print(json.dumps(found))",
        str(file),
    )
    assert read == Counter(classes_of(named).values())


def test_label_studio_reads_tasks_and_their_interface(api: TestClient, named: Clustering, tmp_path: Path) -> None:
    tasks, config = tmp_path / "tasks.json", tmp_path / "config.xml"
    tasks.write_bytes(export(api, named, "labelstudio", root="/data/local-files/?d=my photos"))
    config.write_bytes(export(api, named, "labelstudio-config"))
    document = json.loads(tasks.read_bytes())
    found = {task["data"]["row"]: task["predictions"][0]["result"][0]["value"]["choices"] for task in document}
    assert found == {row: [name] for row, name in classes_of(named).items()}
    assert document[3]["data"]["image"] == "/data/local-files/?d=my photos/train/00003.png"
    choices = [each.get("value") for each in ElementTree.fromstring(config.read_text()).iter("Choice")]
    assert choices == [HOSTILE, "hats", "cluster 3"]
    read = read_by(
        "label_studio_sdk",
        "import json, sys; from label_studio_sdk.label_interface import LabelInterface\n"
        "i = LabelInterface(open(sys.argv[2]).read()); tasks = json.load(open(sys.argv[1]))\n"
        "print(json.dumps([bool(i.validate_task({'data': t['data']})) for t in tasks]\n"
        "    + [bool(i.validate_prediction(t['predictions'][0])) for t in tasks]))",
        str(tasks),
        str(config),
    )
    assert read == [True] * 480


def test_datumaro_reads_cvat(api: TestClient, named: Clustering, tmp_path: Path) -> None:
    file = tmp_path / "annotations.xml"
    file.write_bytes(export(api, named, "cvat"))
    root = ElementTree.fromstring(file.read_text())
    assert [each.text for each in root.iterfind("meta/task/labels/label/name")] == [HOSTILE, "hats", "cluster 3"]
    tags = {each.get("name"): [tag.get("label") for tag in each.iter("tag")] for each in root.iter("image")}
    assert tags == {f"train/{row:05d}.png": [name] for row, name in classes_of(named).items()}
    images_below(tmp_path / "images")
    read = read_by(
        "datumaro",
        "import json, sys; from datumaro.components.dataset import Dataset\n"
        "d = Dataset.import_from(sys.argv[1], 'cvat'); labels = d.categories()[next(iter(d.categories()))]\n"
        "print(json.dumps({item.id: [labels[a.label].name for a in item.annotations] for item in d}))",
        str(tmp_path),
    )
    assert read == {f"train/{row:05d}": [name] for row, name in classes_of(named).items()}


@pytest.mark.parametrize("root", ["", PATHS])
def test_fiftyone_reads_its_labels(api: TestClient, named: Clustering, tmp_path: Path, root: str) -> None:
    file = tmp_path / "labels.json"
    file.write_bytes(export(api, named, "fiftyone", root=root))
    labels = json.loads(file.read_bytes())["labels"]
    keys = {row: f"{root}/train/{row:05d}.png" if root else f"train/{row:05d}" for row in range(240)}
    assert {keys[row]: name for row, name in classes_of(named).items()} == {k: v["label"] for k, v in labels.items()}
    assert labels[keys[5]]["attributes"] == {
        "cluster": labels[keys[5]]["attributes"]["cluster"],
        "row": 5,
        "flag": "review",
    }
    images_below(tmp_path / "data")
    read = read_by(
        "fiftyone",
        "import json, sys; from fiftyone.utils.data.importers import FiftyOneImageClassificationDatasetImporter as I\n"
        "i = I(data_path=sys.argv[2], labels_path=sys.argv[1]); i.setup()\n"
        "print(json.dumps([[path, label.label] for path, _, label in i]))",
        str(file),
        str(tmp_path / "data"),
    )
    folder = root or str(tmp_path / "data")
    assert dict(read) == {f"{folder}/train/{row:05d}.png": name for row, name in classes_of(named).items()}


def test_without_its_embeddings_there_is_nothing_for_a_tool(api: TestClient, store: Store, named: Clustering) -> None:
    store.delete_embeddings(named.scored[0])
    answer = api.get(f"/clusterings/{named.id}/export", params={"format": "coco"})
    assert (answer.status_code, answer.json()["code"]) == (404, "embeddings_not_found")
    assert len(export(api, named, "jsonl").splitlines()) == 240, "clusters are still known"


@pytest.mark.parametrize("query", [{"format": "excel"}, {}, {"format": "csv", "root": "a\nb"}])
def test_an_unknown_format_or_root_is_refused(api: TestClient, named: Clustering, query: dict[str, str]) -> None:
    assert api.get(f"/clusterings/{named.id}/export", params=query).status_code == 422


def test_the_command_makes_a_folder_a_class(
    serve: Callable[..., int],
    settings: Settings,
    queue: JobQueue,
    store: Store,
    named: Clustering,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOAL_CLUSTERER_URL", f"http://127.0.0.1:{serve(build(settings, queue, store))}")
    images, to = tmp_path / "images", tmp_path / "out"
    images_below(images)
    (images / "train" / "00009.png").unlink()
    words = ["export", named.id, "--format", "imagefolder", "--to", str(to), "--images", str(images)]
    for _ in range(2):  # Once more replaces the links.
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        assert f"239 images in {to}, 1 left out" in done.stdout
    safe = {HOSTILE: "=cmd___c calc_!A0 _b_&'ü", "hats": "hats", "cluster 3": "cluster 3"}
    found = {path.relative_to(to).as_posix(): path for path in to.rglob("*.png")}
    assert set(found) == {f"{safe[name]}/train/{row:05d}.png" for row, name in classes_of(named).items() if row != 9}
    assert all(path.resolve().is_relative_to(images) for path in found.values())
    file = tmp_path / "coco.json"
    done = CliRunner().invoke(cli, ["export", named.id, "--format", "coco", "--to", str(file)])
    assert f"{file}: {file.stat().st_size:,} bytes" in done.output.replace("\n", "")
    assert done.exit_code == 0, done.output
    assert len(json.loads(file.read_bytes())["annotations"]) == 240
    done = CliRunner().invoke(cli, words[:-2])
    assert done.exit_code == 2
    done = CliRunner().invoke(cli, [*words[:-1], str(to)])
    assert isinstance(done.exception, PathNotFound)


def test_no_class_and_no_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    names: set[str] = set()
    folders = ClassFolders()
    labels = ("..", ".", "a/b", "a\\b", "A_B", "/etc", ".hidden", "\x00", "x" * 500, "é", "e\u0301", "CON", "con.txt")
    for label in (*labels, "\U0001f600" * 80, "a\u202egnp.exe", "عربي", "\ud800", "a_b (2)", "left-out"):
        name = folders.of(label)
        assert "/" not in name
        assert not name.startswith(".")
        assert name.casefold() not in {each.casefold() for each in names}
        assert len(name.encode()) < 255
        assert folders.of(label) == name
        names.add(name)
    assert {"عربي", "CON_", "con.txt_", "é", "é (2)", "a_gnp.exe"} < names
    # Thousands of names that differ in what no folder can hold take no longer than others.
    assert len({folders.of(f"x{chr(1 + each % 31)}{'/' * (each // 31)}") for each in range(3000)}) == 3000
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").touch()
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "a\0b", "", None):
        assert source_of(tmp_path / "images", path) is None
