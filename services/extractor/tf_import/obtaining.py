"""A published TensorFlow model, from its publisher to the folder that is served: downloaded, imported and checked.

What is being downloaded lies in ``<models>/.downloads/<name>`` and stays there until the import has succeeded, so that
every try goes on where the one before it stopped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from shoal.errors import WeightsInvalid, WeightsMissing
from shoal.process import spawn
from shoal.store.files import replace_file

from extractor.models.download import Checksums, OnProgress, alone, download, fault_of, note_of, require_room
from extractor.models.fetch import Route
from extractor.models.spec import ModelSpec, PublishedModel
from extractor.tf_import.archives import replace_folder, unpack
from extractor.tf_import.bucket import RemoteFile, list_files
from extractor.tf_serving import folders

log = structlog.get_logger(__name__)

DOWNLOADS = ".downloads"
RECORD = "download.json"
"""Beside a model's versions: what was downloaded, with the sha256 of every file; a later download must agree."""
SOURCE = "source"
TICK_S = 0.5
OnStage = Callable[[str], None]


@dataclass(frozen=True)
class FetchedFile:
    """One downloaded file."""

    path: str
    bytes: int
    sha256: str


class NeedsTensorFlow(WeightsMissing):
    """The model can be downloaded, but nothing here can import it."""


def obtain(
    spec: ModelSpec,
    models_root: Path,
    *,
    mirror: str | None = None,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    timeout_s: float = 30.0,
) -> Path:
    """The version folder of `spec`, which is downloaded and imported unless it is here.

    Parameters
    ----------
    on_progress
        Called with the bytes here and the bytes there are; may raise to stop.
    on_stage
        Called with ``download weights`` and ``import model`` when these begin.

    Raises
    ------
    NeedsTensorFlow
        TensorFlow is not installed.
    DownloadFailed
        A file cannot be had.
    WeightsInvalid
        What came is not what was published or what came the first time, or it cannot be imported.
    """
    report, stage = on_progress or (lambda _done, _total: None), on_stage or (lambda _stage: None)
    work = models_root / DOWNLOADS / spec.name
    work.mkdir(parents=True, exist_ok=True)
    with alone(work, report):
        if (here := served_folder(spec, models_root)) is not None:
            return here
        if importlib.util.find_spec("tensorflow") is None:
            raise NeedsTensorFlow(
                f"{spec.name} is a TensorFlow model, and TensorFlow is not installed here: `pip install 'shoal[tf]'`, "
                f"then `shoal models pull {spec.name}`.",
                model=spec.name,
                needs="shoal[tf]",
            )
        stage("download weights")
        published = spec.weights.published
        if published is None:
            raise AssertionError(f"{spec.name} is published nowhere")
        work.mkdir(exist_ok=True)
        source = _fetch(published, spec.name, models_root, work, mirror, report, timeout_s)
        stage("import model")
        folder = _import(spec.name, source, models_root, report)
        shutil.rmtree(work, ignore_errors=True)
    return folder


def served_folder(spec: ModelSpec, models_root: Path) -> Path | None:
    """The highest version of the model below `models_root`."""
    found = folders.versions(models_root / spec.name)
    return models_root / spec.name / str(found[-1]) if found else None


def by_hand(name: str, published: PublishedModel) -> str:
    """What a person can do where nothing is downloaded."""
    if published.kind == "gcs-prefix":
        bucket, _, prefix = urlsplit(published.url).path.strip("/").partition("/")
        how = f"Fetch the files below {published.url} by hand (`gsutil -m cp -r gs://{bucket}/{prefix} FOLDER`)"
    else:
        how = f"Fetch {published.url} by hand (a {published.kind} file) and unpack it"
    return f"{how}, put the folder on this machine, and run `shoal models import-tf {name} FOLDER`."


def _fetch(
    published: PublishedModel,
    name: str,
    models_root: Path,
    work: Path,
    mirror: str | None,
    report: OnProgress,
    timeout_s: float,
) -> Path:
    """The folder with the published model, every file checked, on record before anything uses it."""
    record = models_root / name / RECORD
    known = _recorded(record, published.url)
    if published.kind == "gcs-prefix":
        remote = list_files(published.url, mirror=mirror, timeout_s=timeout_s)
        fetched = _fetch_files(remote, work / SOURCE, known, mirror, report, timeout_s)
    else:
        archive = work / f"archive.{published.kind}"
        stated = Checksums(known.get(archive.name) or published.sha256)
        _drop_what_is_wrong(archive, stated, None)
        route = Route.to(published.url, mirror=mirror, hosts=published.hosts)
        digest = download(route, archive, checksums=stated, on_progress=report, timeout_s=timeout_s)
        fetched = [FetchedFile(archive.name, archive.stat().st_size, digest)]
    if known and set(known) != {file.path for file in fetched}:
        raise WeightsInvalid(
            f"{published.url} no longer holds the files of the first download: {record} lists those. Remove it to take "
            "what is published now.",
            model=name,
        )
    if published.kind != "gcs-prefix":
        _unpack(archive, published.kind, work, report)  # Before it is trusted: a web page in its place fails here.
    _write_record(record, published, fetched)
    return work / SOURCE


def _fetch_files(
    remote: list[RemoteFile],
    folder: Path,
    known: dict[str, str],
    mirror: str | None,
    report: OnProgress,
    timeout_s: float,
) -> list[FetchedFile]:
    total, done = sum(file.bytes for file in remote), 0
    here = sum((folder / file.path).stat().st_size for file in remote if (folder / file.path).is_file())
    folder.mkdir(parents=True, exist_ok=True)
    require_room(folder, total - here)
    fetched = []
    for file in remote:
        target, stated = folder / file.path, Checksums(known.get(file.path), file.md5)
        _drop_what_is_wrong(target, stated, file.bytes)
        digest = download(
            Route.to(file.url, mirror=mirror, hosts=()),
            target,
            checksums=stated,
            on_progress=partial(_report_all, report, done, total),
            timeout_s=timeout_s,
        )
        size = target.stat().st_size
        if size != file.bytes:
            target.unlink()
            raise WeightsInvalid(f"{file.url} sent {size} bytes, and {file.bytes} are listed. It was deleted.")
        fetched.append(FetchedFile(file.path, size, digest))
        done += size
        report(done, total)
    _remove_strays(folder, {file.path for file in remote})
    return fetched


def _report_all(report: OnProgress, before: int, total: int, now: int, _size: int | None) -> None:
    report(before + now, total)


def _drop_what_is_wrong(target: Path, stated: Checksums, size: int | None) -> None:
    """Remove a file of an earlier try that has become another one, or is damaged."""
    if target.is_file() and (size not in (None, target.stat().st_size) or fault_of(target, target, stated)):
        target.unlink()


def _remove_strays(folder: Path, wanted: set[str]) -> None:
    """Leave only what is listed, and the notes of the download: a stray file of another version could be imported."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in wanted:
            path.unlink()


def _unpack(archive: Path, kind: str, work: Path, report: OnProgress) -> None:
    prepared = work / f"{SOURCE}.new"
    shutil.rmtree(prepared, ignore_errors=True)
    size = archive.stat().st_size
    try:
        unpack(archive, "zip" if kind == "zip" else "tar", prepared, lambda: report(size, size))
    except WeightsInvalid:
        archive.unlink()  # The next try fetches it again, and need not agree with this one.
        note_of(archive).unlink(missing_ok=True)
        raise
    finally:
        if not prepared.is_dir():
            shutil.rmtree(prepared, ignore_errors=True)
    replace_folder(prepared, work / SOURCE)


def _recorded(record: Path, url: str) -> dict[str, str]:
    """sha256 by path of the first download from `url`; empty when there was none."""
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        return {file["path"]: file["sha256"] for file in document["files"]} if document["url"] == url else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsInvalid(
            f"{record} cannot be read, and says what a download has to be: remove it to trust the next one."
        ) from error


def _write_record(record: Path, published: PublishedModel, files: list[FetchedFile]) -> None:
    document = {"url": published.url, "kind": published.kind, "files": [asdict(file) for file in files]}
    record.parent.mkdir(parents=True, exist_ok=True)
    replace_file(record, lambda file: file.write(json.dumps(document, indent=2).encode() + b"\n"))


def _import(name: str, source: Path, models_root: Path, report: OnProgress) -> Path:
    """Import in a process of its own: TensorFlow must not be loaded beside PyTorch, and takes its memory with it."""
    command = [sys.executable, "-m", "extractor", "import-tf", name, str(source), "--json"]
    env = {**os.environ, "SHOAL_MODELS": str(models_root)}
    process = spawn(command, new_session=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    try:
        while True:
            try:
                out, err = process.communicate(timeout=TICK_S)
                break
            except subprocess.TimeoutExpired:
                report(0, None)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        lines = err.decode(errors="replace").strip().splitlines() or [f"it ended with status {process.returncode}"]
        raise WeightsInvalid(f"{name} was downloaded, and cannot be imported: {lines[-1]}", model=name)
    imported = json.loads(out.decode().strip().splitlines()[-1])
    log.info("model imported", model=name, folder=imported["folder"], dim=imported["dim"])
    return Path(imported["folder"])
