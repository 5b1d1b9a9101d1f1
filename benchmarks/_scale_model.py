"""What a clustering costs, from measured rates: seconds of each step for given rows, columns, clusters and nodes.

Pure functions: `scale_model.py` measures the rates and prints the predictions. Steps follow each other without overlap,
as in the engine, so their seconds are added; within a step, reading goes on beside computing. Every node is alike, and
every worker holds as many rows as any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from _scale_inputs import GB, Nodes, Problem, Rates

EARLY_PASSES = 3
"""The first pass sketches, the next two choose directions and move many rows; later ones are alike."""
GROWTH, DRAWN_AT_ONCE = 4, 512
"""Of `clusterer.kmeans.seeding`."""
SAMPLED, FEWEST_SAMPLED, MULTIPLY_ADDS = 1000, 64, 2e10
"""Of `clusterer.evaluation.unsupervised`."""
COMPARED, REFUSED = 0.3, 1.3
"""Products of drawn rows with those chosen since the last search, over ``k²``; draws for each that is accepted."""
SKETCH_EXTRA, PER_ROW, PER_DRIVER_ROW, PER_CENTROID_VALUE = 320, 64, 260, 48
"""Bytes, of `clusterer.jobs.memory`."""


@dataclass(frozen=True)
class Step:
    """Seconds of one step.

    Attributes
    ----------
    compute, disk
        On each node; the longer of the two counts.
    driver, network
        Computing in the job's own process, and sending to and from it.
    """

    name: str
    compute: float = 0.0
    disk: float = 0.0
    driver: float = 0.0
    network: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self.compute, self.disk) + self.driver + self.network

    def times(self, count: float) -> Step:
        """``count`` such steps."""
        return Step(self.name, *(count * each for each in (self.compute, self.disk, self.driver, self.network)))


@dataclass(frozen=True)
class Memory:
    """Bytes of one node, in 1e9, and what fits.

    Attributes
    ----------
    needed_gb
        Beside the rows and their sketches.
    place
        ``memory``: rows and sketches; ``file``: rows are on the node's disk; ``again``: sketches are computed in every
        pass as well; ``none``: it does not fit.
    driver_gb
        Of the job's own process.
    """

    rows_gb: float
    sketches_gb: float
    needed_gb: float
    driver_gb: float
    place: str


@dataclass(frozen=True)
class Prediction:
    """Seconds by step, and memory."""

    problem: Problem
    nodes: Nodes
    memory: Memory
    steps: tuple[Step, ...] = field(default_factory=tuple)

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.steps)

    def of(self, *names: str) -> float:
        """Seconds of some steps."""
        return sum(each.seconds for each in self.steps if each.name in names)


def predict(problem: Problem, nodes: Nodes, rates: Rates) -> Prediction:
    """Every step of a clustering job on some nodes."""
    memory = memory_of(problem, nodes)
    model = _Model(problem, nodes, rates, memory.place)
    steps = [model.read(), model.pca(), model.transform(), model.seeding(), *model.passes()]
    steps += [model.assign(), model.metrics(), model.write()]
    return Prediction(problem, nodes, memory, tuple(each for each in steps if each.seconds > 0))


def memory_of(problem: Problem, nodes: Nodes) -> Memory:
    """What each node holds, and the job's own process, which gets the sums of all workers at once."""
    rows, seen, dim = problem.rows / nodes.count, problem.seen / nodes.count, problem.width
    sample = 0 if problem.fitted is None else seen
    held, sketches = (rows + sample) * dim * 4 / GB, seen * (-(-dim // 64) * 64 + SKETCH_EXTRA) / GB
    centroids = problem.k * dim / GB
    other = rows * PER_ROW / GB + nodes.workers * (PER_CENTROID_VALUE * centroids + 0.5)
    left = nodes.memory_gb - other
    driver = problem.rows * PER_DRIVER_ROW / GB + 8 * centroids * (3 + nodes.distributed * nodes.all_workers)
    place = "none" if left < 0 else "again"
    if place == "again" and sketches <= left:
        place = "memory" if held + sketches <= left else "file"
    return Memory(held, sketches, other, driver, place)


class _Model:
    """The steps of one job."""

    def __init__(self, problem: Problem, nodes: Nodes, rates: Rates, place: str) -> None:
        self.problem, self.nodes, self.rates, self.place = problem, nodes, rates, place
        parallel = rates.efficiency if nodes.cores > 1 else 1.0
        self._cores = nodes.cores * parallel
        self._rows = problem.rows / nodes.count
        self._seen = problem.seen / nodes.count
        self._centroids = problem.k * problem.width

    def read(self) -> Step:
        """The embeddings, once for the transform and once before for PCA."""
        values = self._rows * self.problem.dim_in
        disk = values * self.problem.itemsize / (self.nodes.disk_gb_s * GB)
        # Blocks are checked and converted by one thread of each worker.
        threads = min(self.nodes.workers, self.nodes.cores)
        once = Step("read", values / (self.rates.read_gvalues * GB * threads), disk)
        return once.times(2 if self.problem.projected else 1)

    def pca(self) -> Step:
        """Moments of each worker's rows, their sum, and its eigenvectors in the job's own process."""
        if not self.problem.projected:
            return Step("pca")
        square = self.problem.dim_in**2
        return Step(
            "pca",
            self._rows * square / (self.rates.moments_gmac * GB * self._cores),
            driver=square * self.problem.dim_in / (self.rates.eig_gmac * GB) + self._reduced(square),
            network=self._gathered(16 * square),
        )

    def transform(self) -> Step:
        """Projection of all rows; rows that do not fit in memory go to a file."""
        compute = 0.0
        if self.problem.projected:
            products = self._rows * self.problem.dim_in * self.problem.width
            compute = products / (self.rates.project_gmac * GB * self._cores)
        written = 0.0 if self.place == "memory" else self._rows * self.problem.width * 4
        return Step("transform", compute, written / (self.nodes.disk_gb_s * GB))

    def seeding(self) -> Step:
        """k-means++ by rejection: the rows meet each centroid once, in about ``log4 k`` searches.

        After each search every row's distance goes to the job's own process. It draws from them, fetches the rows that
        it drew and compares them with those chosen since.
        """
        k, searches = self.problem.k, seeding_passes(self.problem.k)
        compute = self._products(k) / self._rate("search", max(1, k // searches))
        batches = searches + REFUSED * k / DRAWN_AT_ONCE
        compared = COMPARED * REFUSED * k * self._centroids / (self.rates.metrics_gmac * GB * self._cores)
        network = searches * self._gathered(4 * self.problem.seen / self.nodes.all_workers)
        if self.nodes.distributed:
            network += self._sent(4 * self._centroids) + batches * self._called()
        return Step(
            "seeding",
            compute + searches * self._prepared(k // searches),
            searches * self._file_s,
            batches * self.problem.seen / (self.rates.draw_grows * GB) + compared,
            network,
        )

    def passes(self) -> list[Step]:
        """All iterations, with a last pass that only finds that the run has ended."""
        count = self.problem.iterations + 1
        kinds = {"first": 1, "early": min(EARLY_PASSES, count) - 1, "settled": max(0, count - EARLY_PASSES)}
        return [self.one_pass(kind).times(times) for kind, times in kinds.items() if times > 0]

    def one_pass(self, kind: str) -> Step:
        """Centroids to all workers, an assignment there, sums and counts back and added in a fixed order."""
        compute = self._products(self.problem.k) / self._rate(kind) + self._prepared(self.problem.k)
        if self.place == "again" and kind != "first":
            # Without sketches kept there are no directions, and every pass is like the first.
            compute = max(compute, self._products(self.problem.k) / self._rate("first"))
        network = self._sent(4 * self._centroids) + self._gathered(8 * self._centroids)
        network += self._gathered(4 * self.problem.seen / self.nodes.all_workers)
        return Step(kind, compute, self._file_s, self._reduced(self._centroids), network)

    def assign(self) -> Step:
        """The two nearest of all rows; workers write labels, distances and margins to the shared store."""
        products = self._rows * self._centroids
        written = 12 * self._rows if self.nodes.distributed else 0
        read = self._rows * self.problem.width * 4 if self.place != "memory" else 0
        return Step(
            "assign",
            products / self._rate("two_nearest") + self._prepared(self.problem.k),
            (written + read) / (self.nodes.disk_gb_s * GB),
            network=self._sent(4 * self._centroids),
        )

    def metrics(self) -> Step:
        """Sums of clusters in one pass, distances of sampled rows in the next."""
        if not self.problem.metrics:
            return Step("metrics")
        values = self._rows * self.problem.width
        sampled = min(SAMPLED, max(FEWEST_SAMPLED, MULTIPLY_ADDS / (self.problem.rows * self.problem.width)))
        threads = min(self.nodes.workers, self.nodes.cores)
        compute = values / (self.rates.metrics_gvalues * GB * threads)
        compute += values * sampled / (self.rates.metrics_gmac * GB * self._cores)
        network = self._gathered(8 * self._centroids) + self._sent(8 * self._centroids)
        read = 2 * self._file_s * self.problem.rows / self.problem.seen
        return Step("metrics", compute, read, self._reduced(self._centroids), network)

    def write(self) -> Step:
        """Assignments, by the job's own process."""
        return Step("write", driver=self.problem.rows / (self.rates.write_grows * GB))

    def _products(self, k: int) -> float:
        return self._seen * k * self.problem.width

    def _rate(self, kind: str, k: int | None = None) -> float:
        return self.rates.of_pass(kind, self.problem.width, k or self.problem.k) * self._cores

    def _prepared(self, k: int) -> float:
        """Centroids packed by each worker, by one thread, and its sums read out."""
        at_once = min(self.nodes.workers, self.nodes.cores) / self.nodes.workers
        return k * self.problem.width / (self.rates.centroids_gvalues * GB * at_once)

    @property
    def _file_s(self) -> float:
        """The rows of k-means read from the node's disk, once."""
        if self.place == "memory":
            return 0.0
        return self._seen * self.problem.width * 4 / (self.nodes.disk_gb_s * GB)

    def _reduced(self, values: float) -> float:
        parts = self.nodes.all_workers if self.nodes.distributed else 0
        return parts * values / (self.rates.reduce_gvalues * GB)

    def _sent(self, size: float) -> float:
        """One array to every node: put once, and sent once to each other node by the driver's."""
        if not self.nodes.distributed:
            return 0.0
        copies = size / (self.rates.object_gb_s * GB)
        return self._called() + copies + (self.nodes.count - 1) * size / (self.nodes.network_gb_s * GB)

    def _gathered(self, size: float) -> float:
        """One array from each worker to the driver."""
        if not self.nodes.distributed:
            return 0.0
        here = self.nodes.workers * size / (self.rates.object_gb_s * GB)
        away = (self.nodes.count - 1) * self.nodes.workers * size / (self.nodes.network_gb_s * GB)
        return here + away

    def _called(self) -> float:
        return self.rates.call_s * self.nodes.all_workers


def seeding_passes(k: int) -> int:
    """Searches among all rows of k-means++ by rejection, where no batch is mostly refused."""
    return max(1, math.ceil(math.log(max(2, k), GROWTH)))
