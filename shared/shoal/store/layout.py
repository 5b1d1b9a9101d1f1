"""Every path of the store, in one place. FORMAT.md is the specification that this module follows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shoal.storeroot import WORK_FOLDER

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")
"""What an embeddings or clustering id looks like; anything else is no id and never becomes part of a path."""
SHARD_DIGITS = 5
"""Least width of a shard number in file names."""
COMMIT_NAME = re.compile(r"([0-9]{5,})\.json")

IMG_EMB, METADATA, ERRORS, THUMBS = "img_emb", "metadata", "errors", "thumbs"
DATA_KINDS = {IMG_EMB: "npy", METADATA: "parquet", ERRORS: "parquet", THUMBS: "parquet"}
"""The data folders of an embeddings folder and the extension of the files in each."""


def is_id(text: str) -> bool:
    """Whether ``text`` may name an embeddings or clustering folder."""
    return ID_PATTERN.fullmatch(text) is not None


@dataclass(frozen=True)
class EmbeddingsLayout:
    """Paths of one embeddings folder.

    Parameters
    ----------
    folder
        ``<root>/embeddings/<id>``.
    digits
        Width of the shard numbers in file names: the same for all shards of a plan, so that the files' names sort as
        their numbers do.
    """

    folder: Path
    digits: int = SHARD_DIGITS

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def listing(self) -> Path:
        return self.folder / "listing.parquet"

    @property
    def notes(self) -> Path:
        """What was left out of the listing; the only file that may be replaced."""
        return self.folder / "listed.json"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def commits(self) -> Path:
        return self.folder / "commits"

    @property
    def work(self) -> Path:
        """Folder of what is being written: nothing in it counts unless a commit names it."""
        return self.folder / "work"

    def commit(self, shard: int) -> Path:
        return self.commits / f"{shard:0{self.digits}d}.json"

    def data_name(self, kind: str, shard: int) -> str:
        """Path of a shard's file relative to the embeddings folder, with forward slashes."""
        return f"{kind}/{kind}_{shard:0{self.digits}d}.{DATA_KINDS[kind]}"

    def data(self, kind: str, shard: int) -> Path:
        return self.folder / self.data_name(kind, shard)

    def staging(self, token: str) -> Path:
        """Folder of one attempt at one shard."""
        return self.work / token

    @property
    def all_parts(self) -> Path:
        """Folder of what attempts have saved of shards that are not committed yet; there only while there is any."""
        return self.folder / "parts"

    def parts(self, shard: int) -> Path:
        """Folder of what attempts have saved of one shard."""
        return self.all_parts / f"{shard:0{self.digits}d}"

    def staged(self, token: str, data_name: str) -> Path:
        """Where an attempt keeps the file that will become ``data_name`` once it is committed."""
        return self.staging(token) / data_name.rpartition("/")[2]

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that exist from the start."""
        return (*(self.folder / kind for kind in DATA_KINDS), self.commits, self.work)


@dataclass(frozen=True)
class ClusteringLayout:
    """Paths of one clustering folder, ``<root>/clusterings/<id>``."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "spec.json"

    @property
    def transform(self) -> Path:
        return self.folder / "transform.npz"

    @property
    def centroids(self) -> Path:
        return self.folder / "centroids.npy"

    @property
    def assignments(self) -> Path:
        return self.folder / "assignments.parquet"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def iterations(self) -> Path:
        return self.folder / "iterations.parquet"

    @property
    def run(self) -> Path:
        return self.folder / "run.json"

    @property
    def clusters(self) -> Path:
        return self.folder / "clusters.parquet"

    @property
    def classes(self) -> Path:
        return self.folder / "classes.parquet"

    @property
    def confusion(self) -> Path:
        return self.folder / "confusion.parquet"

    @property
    def files(self) -> Path:
        """Written last: size and checksum of every other file."""
        return self.folder / "files.json"

    def seed_centroids(self, seed: int) -> Path:
        return self.folder / "seeds" / str(seed) / "centroids.npy"

    @property
    def prices(self) -> Path:
        return self.folder / "prices.npy"

    def seed_prices(self, seed: int) -> Path:
        return self.folder / "seeds" / str(seed) / "prices.npy"

    @property
    def hierarchy(self) -> Path:
        return self.folder / "hierarchy.npz"

    @property
    def report(self) -> Path:
        return self.folder / "report"

    @property
    def report_html(self) -> Path:
        return self.report / "index.html"

    @property
    def contact_sheet(self) -> Path:
        return self.report / "contact-sheet.png"


@dataclass(frozen=True)
class SweepLayout:
    """Paths of one sweep, ``<root>/sweeps/<id>``."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "spec.json"

    @property
    def points(self) -> Path:
        return self.folder / "points"

    def point(self, index: int) -> Path:
        return self.points / f"{index:0{SHARD_DIGITS}d}.json"

    @property
    def plots(self) -> Path:
        return self.folder / "plots"

    def plot(self, name: str, extension: str) -> Path:
        return self.plots / f"{name}.{extension}"

    @property
    def done(self) -> Path:
        """Written last: all points and plots are there."""
        return self.folder / "done.json"


@dataclass(frozen=True)
class StoreLayout:
    """Paths of a store."""

    root: Path

    @property
    def embeddings_folder(self) -> Path:
        return self.root / "embeddings"

    @property
    def clusterings_folder(self) -> Path:
        return self.root / "clusterings"

    @property
    def sweeps_folder(self) -> Path:
        return self.root / "sweeps"

    def sweep(self, sweep_id: str) -> SweepLayout:
        return SweepLayout(self.sweeps_folder / sweep_id)

    @property
    def trash(self) -> Path:
        """Where deleted folders go by one rename before their files are removed."""
        return self.root / ".trash"

    @property
    def temporary(self) -> Path:
        """Where folders are prepared before one rename makes them visible."""
        return self.root / ".tmp"

    def work(self, result_id: str) -> Path:
        """Working folder of the job that makes a clustering or a sweep: its own, and of no meaning to others."""
        return self.work_folder / result_id

    @property
    def work_folder(self) -> Path:
        """Parent of the working folders."""
        return self.root / WORK_FOLDER

    def embeddings(self, embeddings_id: str, digits: int = SHARD_DIGITS) -> EmbeddingsLayout:
        return EmbeddingsLayout(self.embeddings_folder / embeddings_id, digits)

    def clustering(self, clustering_id: str) -> ClusteringLayout:
        return ClusteringLayout(self.clusterings_folder / clustering_id)
