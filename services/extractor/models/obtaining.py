"""Downloads weights that are not on this machine from their publisher, and imports those of TensorFlow.

A TensorFlow model is downloaded into ``<models>/.downloads/<name>``. The files stay there until the import has
succeeded, so that each attempt continues where the previous one stopped.
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

import structlog
from shoal.errors import WeightsInvalid, WeightsMissing
from shoal.process import spawn
from shoal.store.files import replace_file

from extractor.models import folders
from extractor.models.archives import replace_folder, unpack
from extractor.models.bucket import RemoteFile, list_files
from extractor.models.download import (
    Checksums,
    DownloadFailed,
    OnProgress,
    download,
    exclusive,
    fault_of,
    require_room,
)
from extractor.models.fetch import Route
from extractor.models.spec import ModelSpec, PublishedModel
from extractor.models.weights import locate, missing, note_of

log = structlog.get_logger(__name__)

DOWNLOADS = ".downloads"
RECORD = "download.json"
"""Beside a model's versions: the downloaded files with their sha256; a later download must agree."""
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
    """The model can be downloaded, but TensorFlow, which imports it, is not installed."""


def obtain(
    spec: ModelSpec,
    models_root: Path,
    *,
    offline: bool = False,
    mirror: str | None = None,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    timeout_s: float = 30.0,
) -> Path | None:
    """The file with the weights of `spec`; None for a model that needs none.

    A file that is not on this machine is downloaded into `models_root`; a TensorFlow model is then imported.

    Parameters
    ----------
    offline
        Never download.
    mirror
        Base URL that replaces the publisher's; see `extractor.models.fetch.Route.to`.
    on_progress
        Called with the bytes received and the bytes in total; may raise to stop, and a later call continues from there.
    on_stage
        Called with each stage that begins: ``download weights``, ``import model``.

    Raises
    ------
    WeightsMissing
        The file is missing and cannot be downloaded; the message names its URL, its name and its folder.
    WeightsInvalid
        The download is not the published file.
    """
    weights = spec.weights
    if weights.kind in ("none", "random") or weights.local_file(models_root) is not None:
        return locate(spec, models_root)
    if not weights.files or (weights.url is None and weights.published is None):
        raise missing(spec, models_root)
    if offline:
        raise missing(spec, models_root, "SHOAL_OFFLINE is set, so nothing is downloaded.")
    try:
        if weights.published is not None:
            folder = obtain_published(spec, models_root, mirror, on_progress, on_stage, timeout_s)
            return folder / "saved_model.pb"
        target = models_root / weights.files[0]
        route, checksums = Route.to(str(weights.url), mirror=mirror), Checksums(weights.sha256, weights.md5)
        download(route, target, checksums=checksums, on_progress=on_progress, timeout_s=timeout_s)
    except DownloadFailed as error:
        raise missing(spec, models_root, f"The download failed: {error}.") from error
    except OSError as error:
        raise missing(spec, models_root, f"The download cannot be stored: {error}.") from error
    return target


def obtain_published(
    spec: ModelSpec,
    models_root: Path,
    mirror: str | None = None,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    timeout_s: float = 30.0,
) -> Path:
    """The version folder of a published TensorFlow model, which is downloaded and imported if it is missing.

    Raises
    ------
    NeedsTensorFlow
        TensorFlow is not installed.
    DownloadFailed
        A file cannot be downloaded.
    WeightsInvalid
        The files differ from the published ones or from those of the first download, or cannot be imported.
    """
    report, stage = on_progress or (lambda _done, _total: None), on_stage or (lambda _stage: None)
    work = models_root / DOWNLOADS / spec.name
    work.mkdir(parents=True, exist_ok=True)
    with exclusive(work, report):
        found = folders.versions(models_root / spec.name)
        if found:
            return models_root / spec.name / str(found[-1])
        if importlib.util.find_spec("tensorflow") is None:
            raise NeedsTensorFlow(
                f"{spec.name} is a TensorFlow model, and TensorFlow is not installed here: `pip install 'shoal[tf]'`, "
                f"then `shoal models pull {spec.name}`.",
                model=spec.name,
                needs="shoal[tf]",
            )
        if spec.weights.published is None:
            raise AssertionError(f"{spec.name} has no publisher")
        stage("download weights")
        work.mkdir(exist_ok=True)
        source = _fetch(spec.weights.published, spec.name, models_root, work, mirror, report, timeout_s)
        stage("import model")
        folder = _import(spec.name, source, models_root, report)
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _fetch(
    published: PublishedModel,
    name: str,
    models_root: Path,
    work: Path,
    mirror: str | None,
    report: OnProgress,
    timeout_s: float,
) -> Path:
    """Download a published model; its folder. Every file is checked and recorded before it is used."""
    record = models_root / name / RECORD
    known = _recorded(record, published.url)
    if published.kind == "gcs-prefix":
        remote = list_files(published.url, mirror=mirror, timeout_s=timeout_s)
        fetched = _fetch_files(remote, work / SOURCE, known, mirror, report, timeout_s)
    else:
        archive = work / f"archive.{published.kind}"
        stated = Checksums(known.get(archive.name) or published.sha256)
        _remove_if_wrong(archive, stated, None)
        route = Route.to(published.url, mirror=mirror, hosts=published.hosts)
        digest = download(route, archive, checksums=stated, on_progress=report, timeout_s=timeout_s)
        fetched = [FetchedFile(archive.name, archive.stat().st_size, digest)]
    if known and set(known) != {file.path for file in fetched}:
        raise WeightsInvalid(
            f"{published.url} no longer holds the files of the first download, listed in {record}. Remove that file to "
            "accept what is published now.",
            model=name,
        )
    if published.kind != "gcs-prefix":
        _unpack(archive, published.kind, work, report)  # Before it is recorded: a web page in its place fails here.
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
        _remove_if_wrong(target, stated, file.bytes)
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
            raise WeightsInvalid(
                f"{file.url} sent {size} bytes, but its listing says {file.bytes}. The file was deleted; try again."
            )
        fetched.append(FetchedFile(file.path, size, digest))
        done += size
        report(done, total)
    _remove_unlisted(folder, {file.path for file in remote})
    return fetched


def _report_all(report: OnProgress, before: int, total: int, now: int, _size: int | None) -> None:
    report(before + now, total)


def _remove_if_wrong(target: Path, stated: Checksums, size: int | None) -> None:
    """Remove a file of an earlier attempt that is damaged or no longer the published one."""
    if target.is_file() and (size not in (None, target.stat().st_size) or fault_of(target, target, stated)):
        target.unlink()


def _remove_unlisted(folder: Path, listed: set[str]) -> None:
    """Remove files that are not listed: one of another version could be imported by mistake."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in listed:
            path.unlink()


def _unpack(archive: Path, kind: str, work: Path, report: OnProgress) -> None:
    prepared = work / f"{SOURCE}.new"
    shutil.rmtree(prepared, ignore_errors=True)
    size = archive.stat().st_size
    try:
        unpack(archive, "zip" if kind == "zip" else "tar", prepared, lambda: report(size, size))
    except WeightsInvalid:
        archive.unlink()  # The next attempt downloads it again, and its checksum may differ.
        note_of(archive).unlink(missing_ok=True)
        raise
    finally:
        if not prepared.is_dir():
            shutil.rmtree(prepared, ignore_errors=True)
    replace_folder(prepared, work / SOURCE)


def _recorded(record: Path, url: str) -> dict[str, str]:
    """sha256 by path of the first download from `url`; empty before the first."""
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        return {file["path"]: file["sha256"] for file in document["files"]} if document["url"] == url else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsInvalid(
            f"{record}, which records the first download, cannot be read. Remove it to accept the next download."
        ) from error


def _write_record(record: Path, published: PublishedModel, files: list[FetchedFile]) -> None:
    document = {"url": published.url, "kind": published.kind, "files": [asdict(file) for file in files]}
    record.parent.mkdir(parents=True, exist_ok=True)
    replace_file(record, lambda file: file.write(json.dumps(document, indent=2).encode() + b"\n"))


def _import(name: str, source: Path, models_root: Path, report: OnProgress) -> Path:
    """Import in a process of its own: TensorFlow is not loaded beside PyTorch, and its memory is freed."""
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
        lines = err.decode(errors="replace").strip().splitlines() or [
            f"`import-tf` ended with status {process.returncode}"
        ]
        raise WeightsInvalid(f"{name} was downloaded but cannot be imported: {lines[-1]}", model=name)
    imported = json.loads(out.decode().strip().splitlines()[-1])
    log.info("model imported", model=name, folder=imported["folder"], dim=imported["dim"])
    return Path(imported["folder"])
