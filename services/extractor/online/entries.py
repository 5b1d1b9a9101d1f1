"""One model of a host: loading, loaded, or failed to load."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass, field
from functools import cached_property

from shoal.errors import ModelLoading

from extractor.models.spec import ModelSpec
from extractor.online.batching import Batcher
from extractor.online.loading import Loaded
from extractor.online.metrics import ModelMetrics
from extractor.online.texts import TextTurns

LOADING_RETRY_S = 5


@dataclass(frozen=True, eq=False)
class WarmModel:
    """A model that is ready.

    Attributes
    ----------
    texts
        None if its backend embeds images only.
    """

    spec: ModelSpec
    loaded: Loaded
    batcher: Batcher
    texts: TextTurns | None
    metrics: ModelMetrics
    digest: str

    @cached_property
    def transform(self) -> str:
        """How images become its input, as JSON."""
        return json.dumps(self.spec.transform.record())


@dataclass(eq=False)
class Entry:
    """A model that is loading, loaded, or failed to load.

    Attributes
    ----------
    task
        The load.
    users
        Requests that wait for it or use it.
    used_at
        Unix time of the last request's end.
    failed_until
        Until when its error stands, seconds on the monotonic clock.
    """

    spec: ModelSpec
    task: asyncio.Task[WarmModel] = field(init=False)
    users: int = 0
    used_at: float = field(default_factory=time.time)
    failed_until: float = 0.0

    @property
    def model(self) -> WarmModel | None:
        """The model once it is loaded."""
        return self.task.result() if self.task.done() and not self.failed else None

    @property
    def failed(self) -> bool:
        """Whether the load has ended without a model."""
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


async def loaded_in_time(entry: Entry, deadline: float) -> WarmModel:
    """The model, once it is loaded.

    Raises
    ------
    ModelLoading
        That takes until after ``deadline``, on the event loop's clock.
    ShoalError
        It cannot be loaded.
    """
    if not entry.task.done():
        left_s = deadline - asyncio.get_running_loop().time()
        await asyncio.wait([entry.task], timeout=None if math.isinf(left_s) else max(0.0, left_s))
    if not entry.task.done():
        raise still_loading(entry.spec)
    return entry.task.result()


def still_loading(spec: ModelSpec) -> ModelLoading:
    """The error of a request that does not wait for a load any longer."""
    return ModelLoading(
        f"The model {spec.name!r} is being loaded. Send the request again in {LOADING_RETRY_S} s.",
        retry_after_s=LOADING_RETRY_S,
    )
