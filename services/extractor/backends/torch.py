"""Networks run by PyTorch, on the CPU or a GPU of this machine."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from shoal.errors import InvalidRequest, JobError
from shoal.settings import Settings
from shoal.store import ModelRecord
from torch import nn

from extractor.backends.base import Backend
from extractor.backends.same_bits import equal_parts, split, use_onednn
from extractor.images.transform import Transform
from extractor.models import architectures, weights
from extractor.models.checkpoints.loading import load_into
from extractor.models.published import OPEN_CLIP_PREFIX
from extractor.models.spec import ModelSpec

CPU_PIXELS = 4 * 224**2
"""Input pixels that a CPU takes through the network at once, at most. With more, each layer's output exceeds what
malloc keeps, so that every layer pays for fresh pages: with EfficientNet-Lite0, a batch of 64 at once takes twice the
processor time of one in parts of 4."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # From glibc's malloc.h.
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_KEPT_BYTES = 2**30

log = structlog.get_logger(__name__)


class TorchBackend:
    """A network without its classifier, in evaluation mode.

    One thread runs the batches in order, so that the next one is ready when a batch ends. float32 everywhere.

    On a CPU an image gets the same bits alone and in any batch, in every process with the same number of threads: a
    batch goes through the network in parts of a few sizes, which are compared with single images when the model is
    loaded. Where they differ, which costs throughput, the images go one by one.

    Parameters
    ----------
    spec
        The model.
    settings
        Models root and device.
    record
        The model's record in the store.

    Raises
    ------
    WeightsMissing, WeightsInvalid
        The weights are not on this machine, or do not fit the architecture.
    JobError
        The device does not exist.
    """

    max_in_flight = 2

    def __init__(self, spec: ModelSpec, settings: Settings, record: ModelRecord) -> None:
        self._spec = spec
        self.transform: Transform = spec.transform
        self.device = pick_device(settings.device)
        network, self.record = build_network(spec, settings, record)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self._embedding = architectures.embedder(self.network, spec.embedding)
        self._mean = self._channels(spec.transform.mean)
        self._std = self._channels(spec.transform.std)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="torch")
        self._tokenise: Callable[[Sequence[str]], torch.Tensor] | None = None
        size = spec.transform.size
        self._parts: tuple[int, ...] | None = None
        if self.device.type == "cpu":
            keep_freed_memory()
            use_onednn(self.network)
            self._parts = equal_parts(self._run, size, max(1, CPU_PIXELS // size**2))
        self.dim = int(self._embed(np.zeros((1, size, size, 3), np.uint8)).shape[1])
        log.info("model loaded", model=spec.name, device=str(self.device), dim=self.dim, parts=self._parts)

    def submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Embed (n, size, size, 3) uint8 as (n, dim) float32."""
        return self._executor.submit(self._embed, pixels)

    def submit_texts(self, texts: Sequence[str]) -> Future[NDArray[np.float32]]:
        """Embed texts as (n, dim) float32.

        Raises
        ------
        InvalidRequest
            The model has no text tower.
        """
        if not self._spec.reads_text:
            raise InvalidRequest(self._spec.no_texts, field="input")
        return self._executor.submit(self._embed_texts, list(texts))

    def close(self) -> None:
        """Stop the thread and cancel the batches that wait."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _channels(self, values: tuple[float, float, float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)

    def _embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return self._forward(pixels)
        except torch.cuda.OutOfMemoryError as error:
            if len(pixels) == 1:
                raise JobError(
                    "The GPU's memory is too small for a single image of this model. Choose a smaller model, or set "
                    "SHOAL_DEVICE=cpu."
                ) from error
            torch.cuda.empty_cache()
            half = len(pixels) // 2
            log.warning("the batch does not fit into the GPU's memory; it is halved", batch=len(pixels))
        return np.concatenate([self._embed(pixels[:half]), self._embed(pixels[half:])])

    def _embed_texts(self, texts: list[str]) -> NDArray[np.float32]:
        from extractor.models import clip

        if self._tokenise is None:
            self._tokenise = clip.tokeniser(self._spec.architecture.removeprefix(OPEN_CLIP_PREFIX))
        tokens = self._tokenise(texts).to(self.device)
        with torch.inference_mode():
            # One by one: a text has the same bits whatever else is asked with it, as an image has.
            rows = [clip.embed_texts(self.network, tokens[at : at + 1]) for at in range(len(texts))]
            embeddings: NDArray[np.float32] = torch.cat(rows).float().cpu().numpy()
        return embeddings

    def _forward(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._parts is None:
            return self._run(pixels)
        outputs = [self._run(pixels[part]) for part in split(len(pixels), self._parts)]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batch = to_device(pixels, self.device).permute(0, 3, 1, 2).to(torch.float32)
            output = self._embedding(batch.div_(255).sub_(self._mean).div_(self._std))
            if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(pixels):
                raise JobError(
                    f"{self.record.name} does not return an (n, dim) tensor: its architecture has no pooled embedding."
                )
            embeddings: NDArray[np.float32] = output.float().cpu().numpy()
            return embeddings


def to_device(pixels: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """``pixels`` as a tensor on ``device``; to a GPU through pinned memory, while it computes."""
    batch = torch.from_numpy(np.ascontiguousarray(pixels))
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)


def build_network(spec: ModelSpec, settings: Settings, record: ModelRecord) -> tuple[nn.Module, ModelRecord]:
    """The network of ``spec``, filled from its checkpoint or by its seed, and ``record`` with how the file was read.

    Raises
    ------
    UnknownModel
        There is no such architecture.
    WeightsMissing, WeightsInvalid
        The weights are not on this machine, or do not fit.
    """
    path = weights.locate(spec, settings.models)
    network = architectures.build(spec.architecture, size=spec.transform.size, seed=spec.seed)
    if path is not None:
        report = load_into(network, path, spec.layout, record.keys)
        log.info(
            "weights loaded",
            file=path.name,
            layout=report.layout.name,
            tensors=report.filled,
            heads=len(report.heads),
            ignored=len(report.ignored),
        )
        loaded = report.record(spec.layout, weights.folder_path(path, settings.models))
        record = record.model_copy(update={"layout": report.layout.name, "loaded": loaded})
    return network, record


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory instead of returning it to the kernel; False where it has no such setting.

    Each layer's output is some megabytes that live for milliseconds. By default the kernel takes them back and hands
    out fresh, zeroed pages for the next layer: measured on EfficientNet-Lite0, a fifth of all processor time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def pick_device(name: str) -> torch.device:
    """The device that SHOAL_DEVICE names; ``auto`` takes a GPU if there is one.

    Raises
    ------
    JobError
        The device does not exist. A fallback could compute for days on the wrong one.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise JobError(f"SHOAL_DEVICE is {name!r}: set it to auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise JobError(f"SHOAL_DEVICE is {name!r}, but this machine has {torch.cuda.device_count()} CUDA devices.")
    return device


def _conforms(backend: TorchBackend) -> Backend:  # A type checker's proof that the protocol is met.
    return backend
