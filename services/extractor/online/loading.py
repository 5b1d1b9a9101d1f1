"""One model from its files into memory: the network, its decode processes, and what they take."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import JobError, OutOfMemory, ShoalError, WeightsInvalid
from shoal.host import available_cores
from shoal.memory import release_freed_memory
from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor.backends.base import Backend
from extractor.backends.loading import open_backend, record_of
from extractor.images.child import DecoderConfig
from extractor.images.feeder import DEPTH
from extractor.images.pool import DecodePool
from extractor.models.spec import ModelSpec

DECODE_TIMEOUT_S = 10.0
"""Longest decoding of one image that somebody waits for."""
MOST_DECODERS = 4
DECODER_BYTES = 32 * 2**20
"""Memory that a decode process shares with no other."""
_TRIES = 3
_PAGE = os.sysconf("SC_PAGE_SIZE")
_NOWHERE = Path("/nonexistent")


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes
    ----------
    stamp
        Of the file with its weights, as `stamp_of` gives it.
    bytes
        Memory that it took to load, of this machine and of its GPU; at least its weights' file.
    slots
        How many decoded images `pool` holds.
    """

    backend: Backend
    pool: DecodePool
    stamp: str | None
    bytes: int
    slots: int

    def close(self) -> None:
        """Let go of everything, and give the memory back to the system."""
        self.pool.close()
        self.backend.close()
        give_back_memory()


@dataclass(frozen=True)
class Identified:
    """A model whose weights are on this machine.

    Attributes
    ----------
    record
        Of the weights that have `stamp`.
    stamp
        Of the file with its weights before it was read, as `stamp_of` gives it.
    """

    spec: ModelSpec
    record: ModelRecord
    stamp: str | None


def identify(spec: ModelSpec, settings: Settings) -> Identified:
    """Obtain the weights of ``spec`` and read what they are, which takes minutes if they are downloaded.

    Raises
    ------
    ShoalError
        As `record_of` does.
    """
    stamp = stamp_of(spec, settings.models)
    return Identified(spec, record_of(spec, settings), stamp)


def load(known: Identified, settings: Settings) -> Loaded:
    """Load a model and start its decode processes.

    Raises
    ------
    WeightsInvalid
        The weights do not fit, or changed again and again while they were read.
    OutOfMemory
        This machine has too little memory.
    JobError
        It cannot be loaded.
    """
    spec, before = known.spec, memory_used()
    backend, stamp = _unchanged_backend(known, settings)
    try:
        decoding = _Decoding.of(spec, settings)
        pool = DecodePool(decoding.config, workers=decoding.workers, slots=decoding.slots, timeout_s=DECODE_TIMEOUT_S)
    except BaseException:
        backend.close()
        raise
    pool.start()
    grown = max(memory_used() - before, _file_bytes(spec, settings))
    return Loaded(backend, pool, stamp, grown + decoding.bytes, decoding.slots)


def _unchanged_backend(known: Identified, settings: Settings) -> tuple[Backend, str | None]:
    """The backend, and the stamp of its weights, which did not change while they were read."""
    spec = known.spec
    for _ in range(_TRIES):
        stamp = stamp_of(spec, settings.models)
        # Weights without a stamp may have changed too: those that another server holds.
        same = stamp is not None and stamp == known.stamp
        try:
            backend = open_backend(spec, settings, known.record if same else record_of(spec, settings))
        except ShoalError:
            raise
        except MemoryError as error:
            raise OutOfMemory(f"This machine's memory is too small for the model {spec.name!r}.") from error
        except Exception as error:
            raise JobError(f"The model {spec.name!r} cannot be loaded: {type(error).__name__}: {error}") from error
        if stamp_of(spec, settings.models) == stamp:
            return backend, stamp
        backend.close()
    raise WeightsInvalid(f"The weights of {spec.name!r} change while they are read. Wait until they are written.")


@dataclass(frozen=True)
class _Decoding:
    """The decode processes of a model."""

    config: DecoderConfig
    workers: int
    slots: int

    @classmethod
    def of(cls, spec: ModelSpec, settings: Settings) -> _Decoding:
        # The processes get bytes only: no file is below this root.
        config = DecoderConfig(_NOWHERE, _NOWHERE, spec.transform, settings.max_image_pixels, thumbnails=False)
        workers = min(settings.decode_workers or available_cores(), MOST_DECODERS)
        return cls(config, workers, 4 * settings.online_max_batch + 2 * DEPTH * workers)

    @property
    def bytes(self) -> int:
        return self.workers * DECODER_BYTES + self.slots * self.config.slot_bytes


def stamp_of(spec: ModelSpec, models_root: Path) -> str | None:
    """What changes with the file of the weights; None without one, and for weights that another server holds."""
    path = spec.weights.local_file(models_root)
    if path is None:
        return None
    with suppress(OSError):
        status = path.stat()
        return f"{path}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
    return None


def least_bytes(spec: ModelSpec, settings: Settings) -> int:
    """The least that `Loaded.bytes` will be."""
    return _file_bytes(spec, settings) + _Decoding.of(spec, settings).bytes


def _file_bytes(spec: ModelSpec, settings: Settings) -> int:
    """Size of the file with the weights; 0 without one."""
    path = spec.weights.local_file(settings.models)
    with suppress(OSError):
        return path.stat().st_size if path is not None else 0
    return 0


def memory_used() -> int:
    """Bytes that this process has in memory, and on its GPU where PyTorch uses one."""
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        resident += int(torch.cuda.memory_allocated())
    return resident


def give_back_memory() -> None:
    """Return what freed objects held to the system and to the GPU's other processes."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    release_freed_memory()
