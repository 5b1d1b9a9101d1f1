"""Every path of the store, in one place. FORMAT.md is the specification that this module follows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.store.place import FolderPlace
from shoal.store.records import SHARD_DIGITS
from shoal.store_identity import WORK_FOLDER

if TYPE_CHECKING:
    from shoal.store.remote import RemoteSets

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")
"""Pattern of the id of embeddings or of a result; other text never becomes part of a path."""
ENTRY_DIGITS = 6
"""Width of the number of an entry of a journal."""
ENTRY_NAME = re.compile(r"([0-9]{6,})\.json")
COMMIT_NAME = re.compile(r"([0-9]{5,})\.json")

IMG_EMB, METADATA, ERRORS, THUMBS = "img_emb", "metadata", "errors", "thumbs"
DATA_KINDS = {IMG_EMB: "npy", METADATA: "parquet", ERRORS: "parquet", THUMBS: "parquet"}
"""The data folders of an embeddings folder and the extension of the files in each."""


def is_id(text: str) -> bool:
    """Whether ``text`` may name the folder of embeddings or of a result."""
    return ID_PATTERN.fullmatch(text) is not None


def ids_in(folder: Path) -> list[str]:
    """Names of the folders below ``folder`` that are ids, sorted; damaged ones included."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if is_id(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []


def stray_files(folder: Path) -> list[str]:
    """Names of the entries of ``folder`` that are no folders, sorted; hidden files are left out."""
    try:
        return sorted(each.name for each in folder.iterdir() if not each.name.startswith(".") and not each.is_dir())
    except FileNotFoundError:
        return []


class _FolderLayout:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name_of(self, path: Path) -> str:
        """``path`` relative to the folder, with forward slashes."""
        return path.relative_to(self.folder).as_posix()


class EmbeddingsLayout(FolderPlace):
    """Paths of one embeddings folder, and what is done with the files at them.

    Parameters
    ----------
    folder
        ``<root>/embeddings/<id>``.
    digits
        Width of the shard numbers in file names: the same for all shards of a plan, so that names sort as numbers do.

    Attributes
    ----------
    notes
        Which files are not in the listing, and why; the only file that may be replaced.
    work
        Folder of attempts that are being written: no file in it counts unless a commit names it.
    all_parts
        Folder of the saved parts of shards without a commit; exists only while there are any.
    """

    def __init__(self, folder: Path, digits: int = SHARD_DIGITS) -> None:
        super().__init__(folder)
        self.digits = digits
        self.plan = folder / "plan.json"
        self.listing = folder / "listing.parquet"
        self.notes = folder / "listed.json"
        self.manifest = folder / "manifest.json"
        self.commits = folder / "commits"
        self.work = folder / "work"
        self.all_parts = folder / "parts"

    def with_digits(self, digits: int) -> EmbeddingsLayout:
        """The same set with another width of shard numbers."""
        return EmbeddingsLayout(self.folder, digits)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that exist from the start."""
        return (*(self.folder / kind for kind in DATA_KINDS), self.commits, self.work)

    def commit(self, shard: int) -> Path:
        """The commit of a shard."""
        return self.commits / f"{shard:0{self.digits}d}.json"

    def data_name(self, kind: str, shard: int) -> str:
        """Path of a shard's file relative to the embeddings folder, with forward slashes."""
        return f"{kind}/{kind}_{shard:0{self.digits}d}.{DATA_KINDS[kind]}"

    def data(self, kind: str, shard: int) -> Path:
        """A shard's file of ``kind``."""
        return self.folder / self.data_name(kind, shard)

    def parts(self, shard: int) -> Path:
        """Folder of the saved parts of one shard."""
        return self.all_parts / f"{shard:0{self.digits}d}"

    def staging(self, token: str) -> Path:
        """Folder of one attempt at one shard."""
        return self.work / token

    def staged(self, token: str, data_name: str) -> Path:
        """Where an attempt keeps the file that becomes ``data_name`` when its shard is committed."""
        return self.staging(token) / data_name.rpartition("/")[2]


class SealedLayout(_FolderLayout):
    """Paths of a result that is published as a whole.

    Attributes
    ----------
    files
        Written last: size and checksum of every other file.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.spec = folder / "spec.json"
        self.run = folder / "run.json"
        self.files = folder / "files.json"


class ClusteringLayout(SealedLayout):
    """Paths of one clustering folder, ``<root>/clusterings/<id>``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metrics = folder / "metrics.json"
        self.transform = folder / "transform.npz"
        self.centroids = folder / "centroids.npy"
        self.reduction = folder / "reduction.npz"
        self.prices = folder / "prices.npy"
        self.head = folder / "head.npz"
        self.graph = folder / "graph.npz"
        self.hierarchy = folder / "hierarchy.npz"
        self.assignments = folder / "assignments.parquet"
        self.clusters = folder / "clusters.parquet"
        self.classes = folder / "classes.parquet"
        self.confusion = folder / "confusion.parquet"
        self.iterations = folder / "iterations.parquet"
        self.map = folder / "map.parquet"
        self.report = folder / "report"
        self.report_html = self.report / "index.html"
        self.contact_sheet = self.report / "contact-sheet.png"

    def seed_centroids(self, seed: int) -> Path:
        """The centroids of one seed."""
        return self.folder / "seeds" / str(seed) / "centroids.npy"

    def seed_prices(self, seed: int) -> Path:
        """The prices of one seed."""
        return self.folder / "seeds" / str(seed) / "prices.npy"

    def seed_head(self, seed: int) -> Path:
        """The head of one seed."""
        return self.folder / "seeds" / str(seed) / "head.npz"


class AssignedLayout(SealedLayout):
    """Paths of the clusters of an embeddings set that was assigned later, ``<root>/assignments/<id>``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rows = folder / "assignments.parquet"
        self.clusters = folder / "clusters.parquet"
        self.drift = folder / "drift.json"


class AnalysisLayout(SealedLayout):
    """Paths of one analysis of embeddings, such as ``<root>/duplicates/<id>``."""

    def table(self, name: str) -> Path:
        """One table."""
        return self.folder / f"{name}.parquet"


class AnnotationsLayout(_FolderLayout):
    """Paths of what is said about one result, ``<root>/annotations/<its id>``."""

    def entry(self, number: int) -> Path:
        """One entry of the journal."""
        return self.folder / f"{number:0{ENTRY_DIGITS}d}.json"


class SweepLayout(_FolderLayout):
    """Paths of one sweep, ``<root>/sweeps/<id>``.

    Attributes
    ----------
    done
        Written last: all points and plots are there.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.spec = folder / "spec.json"
        self.points = folder / "points"
        self.plots = folder / "plots"
        self.done = folder / "done.json"

    def point(self, index: int) -> Path:
        """One point."""
        return self.points / f"{index:0{SHARD_DIGITS}d}.json"

    def plot(self, name: str, extension: str) -> Path:
        """One plot."""
        return self.plots / f"{name}.{extension}"


class UploadLayout(_FolderLayout):
    """Paths of one upload, ``<root>/uploads/<id>``.

    Attributes
    ----------
    record
        Whose it is. The time of its last change is when the upload was last used.
    parts
        One line per part that has arrived.
    complete
        Exists once no part may follow.
    images
        The unpacked files.
    arrived
        Files of parts on their way to ``images``, a folder for each part.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.record = folder / "upload.json"
        self.parts = folder / "parts.jsonl"
        self.complete = folder / "complete"
        self.images = folder / "images"
        self.arrived = folder / "arrived"


class StoreLayout:
    """Paths of a store.

    Parameters
    ----------
    root
        Its folder.
    remote
        The bucket that its embeddings are in; None if they are below the root.

    Attributes
    ----------
    trash
        Deleted folders are renamed into it before their files are removed.
    temporary
        Folders are prepared in it before one rename makes them visible.
    work_folder
        Parent of the jobs' working folders.
    """

    def __init__(self, root: Path, remote: RemoteSets | None = None) -> None:
        self.root = root
        self.remote = remote
        self.embeddings_folder = root / "embeddings"
        self.clusterings_folder = root / "clusterings"
        self.annotations_folder = root / "annotations"
        self.sweeps_folder = root / "sweeps"
        self.assignments_folder = root / "assignments"
        self.uploads_folder = root / "uploads"
        self.trash = root / ".trash"
        self.temporary = root / ".tmp"
        self.work_folder = root / WORK_FOLDER

    def embeddings(self, embeddings_id: str, digits: int = SHARD_DIGITS) -> EmbeddingsLayout:
        """Paths of an embeddings folder."""
        if self.remote is not None:
            return self.remote.layout(embeddings_id, digits)
        return EmbeddingsLayout(self.embeddings_folder / embeddings_id, digits)

    def embeddings_ids(self) -> list[str]:
        """Ids of all embeddings, finished or not, damaged or not, sorted."""
        return ids_in(self.embeddings_folder) if self.remote is None else self.remote.ids()

    def clustering(self, clustering_id: str) -> ClusteringLayout:
        """Paths of a clustering folder."""
        return ClusteringLayout(self.clusterings_folder / clustering_id)

    def annotations(self, result_id: str) -> AnnotationsLayout:
        """Paths of what is said about a clustering or an analysis."""
        return AnnotationsLayout(self.annotations_folder / result_id)

    def sweep(self, sweep_id: str) -> SweepLayout:
        """Paths of a sweep folder."""
        return SweepLayout(self.sweeps_folder / sweep_id)

    def assigned(self, assignments_id: str) -> AssignedLayout:
        """Paths of an assignment of an embeddings set."""
        return AssignedLayout(self.assignments_folder / assignments_id)

    def analyses_folder(self, kind: str) -> Path:
        """Parent of the analyses of a kind."""
        return self.root / kind

    def analysis(self, kind: str, which: str) -> AnalysisLayout:
        """Paths of an analysis."""
        return AnalysisLayout(self.analyses_folder(kind) / which)

    def upload(self, upload_id: str) -> UploadLayout:
        """Paths of an upload."""
        return UploadLayout(self.uploads_folder / upload_id)

    def work(self, result_id: str) -> Path:
        """Working folder of the job that makes a result; no other process reads it."""
        return self.work_folder / result_id
