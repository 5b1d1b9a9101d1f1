"""Prometheus metrics of a model host."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    start_http_server,
)
from shoal import __version__

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
MOST_NAMES = 100
"""Names of models that become labels; requests choose them, and each label is kept for ever."""
OTHER = "other"


class HostMetrics:
    """The metrics of one host.

    Attributes
    ----------
    registry
        A registry of its own.
    """

    def __init__(self) -> None:
        without_created: Callable[[], None] = disable_created_metrics
        without_created()
        self.registry = registry = CollectorRegistry()
        self._names: set[str] = set()
        Info("shoal_build", "Version of this model host.", registry=registry).info({"version": __version__})
        self.requests = Counter(
            "shoal_online_requests",
            "Requests, by how they ended: `ok`, the error's code, or `client_gone`.",
            ["model", "outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "shoal_online_seconds",
            "Seconds of a request as a whole (`total`), of an image until it is decoded (`decode`) and until its batch "
            "starts (`wait`), and of a batch (`run`).",
            ["model", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.images = Counter(
            "shoal_online_images",
            "Images: `embedded`, `failed`, or `dropped` before their batch, because their request had ended.",
            ["model", "outcome"],
            registry=registry,
        )
        self.batch = Histogram(
            "shoal_online_batch_images", "Images of a batch.", ["model"], buckets=IMAGES, registry=registry
        )
        self.queue = Gauge(
            "shoal_online_queue_images", "Images that wait for their batch.", ["model"], registry=registry
        )
        self.models = Gauge("shoal_online_models", "Loaded models.", registry=registry)
        self.memory = Gauge("shoal_online_memory_bytes", "Bytes of all loaded models.", registry=registry)
        self.limit = Gauge("shoal_online_memory_limit_bytes", "SHOAL_ONLINE_MEMORY.", registry=registry)
        self.loads = Counter(
            "shoal_online_loads", "Loads: `ok` or the error's code.", ["model", "outcome"], registry=registry
        )
        self.load_seconds = Histogram(
            "shoal_online_load_seconds", "Seconds of a load.", buckets=LOAD_SECONDS, registry=registry
        )
        self.evictions = Counter(
            "shoal_online_evictions",
            "Models let go: for lack of `memory`, because they were `replaced` on disk, or because they `failed`.",
            ["reason"],
            registry=registry,
        )
        for reason in ("memory", "replaced", "failed"):
            self.evictions.labels(reason)

    def label(self, name: str) -> str:
        """``name`` as the value of a label, or `OTHER` when there are too many."""
        if name not in self._names and len(self._names) >= MOST_NAMES:
            return OTHER
        self._names.add(name)
        return name

    def of(self, name: str) -> ModelMetrics:
        """The metrics of one model."""
        return ModelMetrics(self, self.label(name))

    def serve(self, host: str, port: int) -> None:
        """Answer scrapes on ``host:port`` from a thread of its own."""
        start_http_server(port, addr=host, registry=self.registry)


class ModelMetrics:
    """What the batches of one model count.

    Parameters
    ----------
    host
        The metrics of the host.
    label
        The model's name as a label.
    """

    def __init__(self, host: HostMetrics, label: str) -> None:
        self.label = label
        self.decode = host.seconds.labels(label, "decode")
        self.wait = host.seconds.labels(label, "wait")
        self.run = host.seconds.labels(label, "run")
        self.total = host.seconds.labels(label, "total")
        self.batch = host.batch.labels(label)
        self.queue = host.queue.labels(label)
        self.embedded = host.images.labels(label, "embedded")
        self.failed = host.images.labels(label, "failed")
        self.dropped = host.images.labels(label, "dropped")
