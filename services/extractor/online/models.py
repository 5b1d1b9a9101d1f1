"""Which models a host keeps loaded: loaded on first use, once for all who wait, and let go by memory."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Literal, ParamSpec, TypeVar

import structlog
from shoal.errors import InvalidRequest, JsonValue, MemoryLimitTooSmall, ModelLoading, ShoalError
from shoal.memory import machine_memory
from shoal.schemas import CustomModel
from shoal.settings import Settings

from extractor.backends.base import TextBackend
from extractor.models import catalogue
from extractor.models.spec import ModelSpec
from extractor.online.batching import Batcher
from extractor.online.entries import Entry, WarmModel, loaded_in_time, still_loading
from extractor.online.loading import Identified, Loaded, identify, least_bytes, load, stamp_of
from extractor.online.metrics import HostMetrics
from extractor.online.pending import Limits
from extractor.online.texts import TextTurns

FRACTION = 4
"""By default the models may take a quarter of the machine's memory."""
FAILED_S, TOO_LARGE_S = 5.0, 60.0
"""Seconds for which a load that failed, or a model that is too large, is not tried again."""
LOOK_S = 0.25
"""Seconds between two looks at the catalogue and at the file of a model's weights."""
MOST_KNOWN = 1000
THREADS = 8
P = ParamSpec("P")
T = TypeVar("T")
Reason = Literal["memory", "replaced", "failed"]

log = structlog.get_logger(__name__)


class WarmModels:
    """The models of one host.

    Parameters
    ----------
    backend
        ``torch`` or ``tfserving``: models of the other one are refused.
    settings
        Models root, limits, device.
    metrics
        Where loads are counted.

    Attributes
    ----------
    limit
        Most bytes of all loaded models.
    """

    def __init__(self, backend: str, settings: Settings, metrics: HostMetrics) -> None:
        self.limit = settings.online_memory or machine_memory() // FRACTION
        self._backend = backend
        self._settings = settings
        self._metrics = metrics
        self._entries: dict[ModelSpec, Entry] = {}
        self._leaving: set[Entry] = set()
        self._left = asyncio.Event()
        self._known: dict[tuple[str, str], tuple[float, ModelSpec, str | None]] = {}
        self._one_load = asyncio.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="models")
        # One thread for all loads: each thread keeps some memory of what it loaded.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        # Of their own: downloads that take minutes must not keep requests for loaded models waiting.
        self._downloads = ThreadPoolExecutor(THREADS, thread_name_prefix="downloads")
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.limit.set(self.limit)
        metrics.models.set_function(lambda: len(self._loaded()))
        metrics.memory.set_function(self._bytes)

    @asynccontextmanager
    async def use(self, model: str | CustomModel, deadline: float) -> AsyncIterator[WarmModel]:
        """The loaded model, which stays loaded meanwhile.

        Parameters
        ----------
        model
            As in an extract request.
        deadline
            Until when to wait for it, on the event loop's clock. Its load continues after that.

        Raises
        ------
        ModelLoading
            It was not loaded in time.
        ShoalError
            There is no such model, or it cannot be loaded.
        """
        spec, stamp = await self._resolved(model)
        entry = self._entry(spec, stamp)
        entry.users += 1
        try:
            yield await loaded_in_time(entry, deadline)
        finally:
            entry.users -= 1
            entry.used_at = time.time()
            self._close_unused(entry)

    def prepare(self, libraries: Callable[[], None]) -> None:
        """Import ``libraries``, so that the first load is quick, then load the models of SHOAL_ONLINE_PRELOAD."""
        self._background(self._prepare(libraries))

    def describe(self) -> list[dict[str, JsonValue]]:
        """Every model that is loaded or loading."""
        rows: list[dict[str, JsonValue]] = []
        for entry in [*self._entries.values(), *self._leaving]:
            if entry.failed:
                continue
            model = entry.model
            rows.append(
                {
                    "name": entry.spec.name,
                    "state": "loading" if model is None else "leaving" if entry in self._leaving else "loaded",
                    "digest": model.digest if model else None,
                    "dim": model.loaded.backend.dim if model else None,
                    "bytes": model.loaded.bytes if model else None,
                    "last_used_at": datetime.fromtimestamp(entry.used_at, UTC).isoformat(),
                    "requests": entry.users,
                    "waiting_images": model.batcher.waiting if model else 0,
                }
            )
        return rows

    async def close(self) -> None:
        """Let every model go. Its requests must have ended."""
        for task in [*self._tasks, *(entry.task for entry in self._entries.values())]:
            task.cancel()
        for _, model in self._loaded():
            await self._in_thread(model.loaded.close)
        self._entries.clear()

    # Which model.

    async def _resolved(self, model: str | CustomModel) -> tuple[ModelSpec, str | None]:
        """The specification of ``model`` and the stamp of its weights, at most `LOOK_S` old."""
        key = (type(model).__name__, model if isinstance(model, str) else model.model_dump_json())
        now = time.monotonic()
        known = self._known.get(key)
        if known is None or known[0] < now - LOOK_S:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            known = self._known[key] = (now, *await self._in_thread(self._resolve, model))
        return known[1:]

    def _resolve(self, model: str | CustomModel) -> tuple[ModelSpec, str | None]:
        spec = catalogue.resolve(model, self._settings.models, settings=self._settings)
        if spec.backend != self._backend:
            raise InvalidRequest(f"The model {spec.name!r} runs with {spec.backend}; this host runs {self._backend}.")
        return spec, stamp_of(spec, self._settings.models)

    def _entry(self, spec: ModelSpec, stamp: str | None) -> Entry:
        """The entry of ``spec``: the one there is if it is still good, or a new one that begins to load."""
        self._forget_failed()
        entry = self._entries.get(spec)
        if entry is not None and (model := entry.model) is not None:
            if model.batcher.broken is not None:
                self._retire(entry, "failed")
            elif model.loaded.stamp != stamp:
                self._retire(entry, "replaced")
        if (kept := self._entries.get(spec)) is not None:
            return kept
        entry = Entry(spec)
        entry.task = asyncio.create_task(self._load(entry))
        # Last: the thread of the metrics looks at the task of every entry.
        self._entries[spec] = entry
        # An error that nobody waits for is in the log.
        entry.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return entry

    def _forget_failed(self) -> None:
        now = time.monotonic()
        for spec, entry in list(self._entries.items()):
            if entry.failed and entry.failed_until <= now:
                del self._entries[spec]

    # Loading.

    async def _load(self, entry: Entry) -> WarmModel:
        spec, begun = entry.spec, time.monotonic()
        label = self._metrics.label(spec.name)
        try:
            model = await self._warm(entry)
        except ModelLoading:
            self._metrics.loads.labels(label, "abandoned").inc()
            raise
        except Exception as error:
            code = error.code if isinstance(error, ShoalError) else "internal_error"
            entry.failed_until = time.monotonic() + (
                TOO_LARGE_S if isinstance(error, MemoryLimitTooSmall) else FAILED_S
            )
            self._metrics.loads.labels(label, code).inc()
            log.error("model not loaded", model=spec.name, code=code, detail=str(error))
            raise
        seconds = time.monotonic() - begun
        self._metrics.loads.labels(label, "ok").inc()
        self._metrics.load_seconds.observe(seconds)
        log.info("model warm", model=spec.name, bytes=model.loaded.bytes, seconds=round(seconds, 2))
        return model

    async def _warm(self, entry: Entry) -> WarmModel:
        spec = entry.spec
        # Before it is this model's turn: weights may be downloaded for minutes.
        known = await _run_in(self._downloads, identify, spec, self._settings)
        while (loaded := await self._loaded_if_free(entry, known)) is None:
            await self._left.wait()
        metrics = self._metrics.of(spec.name)
        limits = Limits(
            batch=self._settings.online_max_batch,
            wait_s=self._settings.online_max_wait_ms / 1000,
            queue=self._settings.online_max_queue,
            slots=loaded.slots,
        )
        batcher = Batcher(spec.name, loaded.backend, loaded.pool, limits, metrics)
        backend = loaded.backend
        texts = TextTurns(spec.name, backend.submit_texts, limits.queue) if isinstance(backend, TextBackend) else None
        return WarmModel(spec, loaded, batcher, texts, metrics, backend.record.digest)

    async def _loaded_if_free(self, entry: Entry, known: Identified) -> Loaded | None:
        """Load the model when it is its turn; None if models that are leaving still have the memory."""
        async with self._one_load:
            if not entry.users:
                # A load would let warm models go for a model that nobody waits for any more.
                raise still_loading(entry.spec)
            needed = least_bytes(entry.spec, self._settings)
            self._require_fit(entry.spec, needed)
            if not self._make_room(needed):
                return None
            loaded = await _run_in(self._loader, load, known, self._settings)
            try:
                self._require_fit(entry.spec, loaded.bytes)
                # Models in use may end their requests: the memory is taken already.
                self._make_room(loaded.bytes)
                while any(not each.users for each in self._leaving):
                    await self._left.wait()
            except BaseException:
                await self._in_thread(loaded.close)
                raise
            return loaded

    # Memory.

    def _require_fit(self, spec: ModelSpec, needed: int) -> None:
        if needed > self.limit:
            enough = math.ceil(1.25 * needed / 2**20)
            raise MemoryLimitTooSmall(
                f"The model {spec.name!r} takes {needed / 2**20:,.0f} MiB, and the model host may keep "
                f"{self.limit / 2**20:,.0f} MiB (SHOAL_ONLINE_MEMORY). Set it to {enough}MiB, or use `POST /extract`.",
                needed_bytes=enough * 2**20,
            )

    def _loaded(self) -> list[tuple[Entry, WarmModel]]:
        entries = [*self._entries.values(), *self._leaving]
        return [(entry, model) for entry in entries if (model := entry.model) is not None]

    def _bytes(self) -> int:
        return sum(model.loaded.bytes for _, model in self._loaded())

    def _make_room(self, needed: int) -> bool:
        """Let models go so that ``needed`` bytes become free: the least recently used ones, idle ones first.

        Returns
        -------
        bool
            Whether the bytes are free. If not, look again when a model has left.
        """
        loaded = self._loaded()
        # Their requests may take minutes: idle models go before anybody waits for that.
        in_use = sum(model.loaded.bytes for entry, model in loaded if entry in self._leaving and entry.users)
        staying = [(entry, model) for entry, model in loaded if entry not in self._leaving]
        excess = sum(model.loaded.bytes for _, model in staying) + needed - self.limit
        for entry, model in sorted(staying, key=lambda each: (each[0].users > 0, each[0].used_at)):
            if excess + (0 if entry.users else in_use) > 0:
                excess -= model.loaded.bytes
                self._retire(entry, "memory")
        return self._bytes() + needed <= self.limit

    def _retire(self, entry: Entry, reason: Reason) -> None:
        """Let a loaded model go as soon as no request uses it; the next request loads it anew."""
        self._metrics.evictions.labels(reason).inc()
        log.info("model let go", model=entry.spec.name, reason=reason, requests=entry.users)
        del self._entries[entry.spec]
        self._leaving.add(entry)
        self._close_unused(entry)

    def _close_unused(self, entry: Entry) -> None:
        if entry in self._leaving and entry.users == 0:
            self._background(self._close(entry))

    async def _close(self, entry: Entry) -> None:
        model = entry.model
        try:
            if model is not None:
                await model.batcher.close()
                await self._in_thread(model.loaded.close)
        finally:
            self._leaving.remove(entry)
            self._left.set()
            self._left = asyncio.Event()

    # Tasks and threads.

    async def _prepare(self, libraries: Callable[[], None]) -> None:
        # No load meanwhile: half a library is of no use to it, and would count as its memory.
        async with self._one_load:
            await _run_in(self._loader, libraries)
        for name in sorted(self._settings.online_preload):
            try:
                async with self.use(name, math.inf):
                    pass
            except ShoalError as error:
                log.error("not preloaded", model=name, code=error.code, detail=error.detail)

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run_in(self._threads, function, *args, **kwargs)


async def _run_in(threads: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    context = contextvars.copy_context()  # Log lines name the service.
    call = partial(context.run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(threads, call)
