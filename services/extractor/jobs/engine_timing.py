"""The engines of this machine, timed and proved on images of the job; what was found is kept beside the store."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from shoal.errors import ShoalError
from shoal.host import available_cores, library_versions
from shoal.settings import Settings
from shoal.store.files import replace_file
from shoal.store.records import canonical_json

from extractor.backends.base import Backend
from extractor.backends.engines.opening import open_engine
from extractor.backends.loading import ModelLoader

FLOAT32 = "float32"
"""The name of eager float32 beside the numerics classes, which is none in a plan."""
LEAST_COSINE = 0.999
"""Of each image's row to its row of eager float32: an engine with less is not taken."""
LEAST_GAIN = 1.05
"""Times eager's rate that an engine must have, so that noise alone takes no other numbers."""
LEAST_IMAGES = 8
_FOLDER = ".engines"
_TIMED_S = 1.0
_LIBRARIES = ("torch", "timm", "openvino")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Timings:
    """What was measured.

    Attributes
    ----------
    rates
        Images per second by numerics class, of the network alone.
    cosines
        Least cosine of a row to eager float32's, by numerics class.
    """

    rates: dict[str, float]
    cosines: dict[str, float]

    def fastest(self) -> str | None:
        """The class to compute in: the fastest that holds; None for eager float32."""
        least = LEAST_GAIN * self.rates[FLOAT32]
        holding = [name for name, cosine in self.cosines.items() if cosine >= LEAST_COSINE and name != FLOAT32]
        return max((name for name in holding if self.rates[name] >= least), key=self.rates.__getitem__, default=None)


def images_to_time(settings: Settings) -> int:
    """How many images show an engine's rate: two parts for each core, or two for a GPU."""
    from extractor.backends.torch import pick_device

    return 128 if pick_device(settings.device).type == "cuda" else min(8 * available_cores(), 512)


def time_engines(
    model: ModelLoader, settings: Settings, found: Sequence[str | None], images: NDArray[np.uint8]
) -> Timings:
    """Run ``images``, (n, size, size, 3) uint8, through eager float32 and the classes ``found``."""
    model.use(None)
    reference, rate = _run(model.backend, images)
    rates, cosines = {FLOAT32: rate}, {FLOAT32: 1.0}
    for numerics in [each for each in found if each is not None]:
        try:
            backend = open_engine(model.spec, settings, model.record, numerics)
        except ShoalError as error:  # OpenVINO cannot convert every network.
            log.warning("engine left out", engine=numerics, error=error.detail)
            continue
        try:
            rows, rates[numerics] = _run(backend, images)
        finally:
            backend.close()
        cosines[numerics] = _least_cosine(rows, reference)
    log.info("engines timed", images_per_s=rates, cosines=cosines)
    return Timings(rates, cosines)


def _run(backend: Backend, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """The rows, and images per second in the fastest of some runs after the first."""
    rows = backend.submit(images).result()
    fastest, spent = float("inf"), 0.0
    while spent < _TIMED_S:
        begin = time.perf_counter()
        backend.submit(images).result()
        seconds = time.perf_counter() - begin
        fastest, spent = min(fastest, seconds), spent + seconds
    return rows, round(len(images) / fastest, 2)


def _least_cosine(rows: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    a, b = rows.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Two rows of zeros are the same row; a row that is not finite proves nothing.
    same = np.where(lengths > 0, (a * b).sum(1) / np.where(lengths > 0, lengths, 1), (a == b).all(1))
    return round(float(same.min()), 7) if np.isfinite(same).all() else 0.0


class Kept:
    """Timings of a model on this machine, in one file below the store's root.

    Parameters
    ----------
    model
        The model; its digest, the libraries' versions, the processor and its cores name the file.
    found
        The classes that can be timed.
    """

    def __init__(self, model: ModelLoader, settings: Settings, found: Sequence[str | None]) -> None:
        key = {
            "model": model.record.digest,
            "transform": model.spec.transform.record(),
            "libraries": library_versions(_LIBRARIES),
            "processor": _processor(settings),
            "cores": available_cores(),
            "classes": list(found),
        }
        self._path = settings.store / _FOLDER / f"{hashlib.sha256(canonical_json(key)).hexdigest()[:24]}.json"

    def read(self) -> Timings | None:
        """What was kept; None if nothing was, or the file is damaged."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            document = json.loads(self._path.read_bytes())
            kept = Timings(
                *({str(name): float(value) for name, value in document[part].items()} for part in ("rates", "cosines"))
            )
            if FLOAT32 in kept.rates:
                return kept
        return None

    def write(self, timings: Timings) -> None:
        """Keep ``timings``; a store that cannot be written to says so when it matters."""
        with suppress(ShoalError, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(asdict(timings), indent=2).encode() + b"\n"
            replace_file(self._path, lambda file: file.write(content), durable=False)


def _processor(settings: Settings) -> str:
    import torch

    from extractor.backends.torch import pick_device

    if pick_device(settings.device).type == "cuda":
        return str(torch.cuda.get_device_name())
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = [line for line in lines if line.startswith(("model name", "model\t", "flags", "Features"))]
        return hashlib.sha256("\n".join(sorted(set(named))).encode()).hexdigest()
    return platform.processor()
