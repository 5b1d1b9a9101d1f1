"""What the API asks the model hosts: embeddings of a few images, and which models are loaded.

A host is a process of this machine, one per backend, that listens on a unix socket (`extractor.online.wire`). A request
holds no thread while a host works on it, and nothing of it goes through the queue or the store.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np
from numpy.typing import NDArray
from shoal.errors import BackendNotInstalled, InvalidRequest, JsonValue, ModelHostDown, Overloaded, ShoalError, relayed
from shoal.jobs.kinds import host_missing, not_installed
from shoal.store.npy import read_header

from extractor.jobs import EXTRACT
from extractor.online import wire

BACKENDS: Final = ("torch", "tfserving")
TIMEOUT_S: Final = 100.0
"""Seconds that a host may take for a request: less than `shoal.web.pools.REQUEST_S`."""
GRACE_S: Final = 5.0
"""After this time beyond its timeout, a host that has not even refused a request counts as hanging."""
CONNECT_S: Final = 5.0
MOST: Final = 512
"""Requests in flight to one host. Its own queue is shorter; this bounds the sockets."""
KEPT_S: Final = 30.0
"""An idle connection stays open for so long; a host closes its end later."""
FRESH_S: Final = 1.0
"""For so long, what a host said about itself is not asked again."""
PATIENCE_S: Final = 0.05
"""So long a request waits for a newer answer; after that it gets the last one."""
ASK_S: Final = 2.0
MAX_MODEL: Final = 48 << 10
"""Bytes of a model's description; a host reads 64 KiB of headers."""
START_RETRY_S: Final = 5
BROKEN_RETRY_S: Final = 2

Model = str | Mapping[str, JsonValue]
"""A model as in ``POST /extract``."""


@dataclass(frozen=True)
class Embedded:
    """What a host answers.

    Attributes
    ----------
    vectors
        (n, dim) float32, a row per input.
    digest
        Of the record of the model that made them.
    transform
        How their images were prepared, as JSON.
    """

    vectors: NDArray[np.float32]
    digest: str
    transform: str


@dataclass(frozen=True)
class HostState:
    """What is known about a host.

    Attributes
    ----------
    answers
        Whether it answered when it was last asked.
    models
        Names of the models that it had loaded.
    """

    answers: bool = False
    models: frozenset[str] = frozenset()


class HostClient:
    """The model hosts of one application. It opens connections when they are needed; `aclose` closes them.

    Parameters
    ----------
    folder
        Folder of the hosts' sockets.
    absent_kinds
        Kinds of jobs whose backends are not installed on this machine.
    """

    def __init__(self, folder: Path, absent_kinds: Collection[str] = ()) -> None:
        self._hosts = {
            name: _Host(name, wire.socket_path(folder, name), f"{EXTRACT}{name}" in absent_kinds) for name in BACKENDS
        }
        self._states = dict.fromkeys(BACKENDS, HostState())
        self._asked = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def embed(
        self,
        backend: str,
        model: Model,
        inputs: Sequence[bytes],
        timeout_s: float = TIMEOUT_S,
        *,
        kind: wire.Inputs = "images",
    ) -> Embedded:
        """The embeddings of ``inputs``: images, encoded as they were sent, or texts in UTF-8.

        A caller that is cancelled closes its connection, and the host drops what it has not computed yet.

        Parameters
        ----------
        backend
            ``torch`` or ``tfserving``.
        model
            As in ``POST /extract``.

        Raises
        ------
        InvalidRequest
            The model's description is too large for a header.
        ModelHostDown
            No host of this backend runs, or it ended or did not answer in time.
        BackendNotInstalled
            None runs, and none can on this machine.
        Overloaded
            Too many requests are in flight.
        ShoalError
            What the host answers: an image that cannot be decoded, a model that cannot be loaded, a full queue.
        """
        return await self._hosts[backend].embed(model, inputs, timeout_s, kind)

    async def states(self) -> Mapping[str, HostState]:
        """What each host said about itself, at most about a second ago unless it hangs."""
        asking = self._asking
        if (asking is None or asking.done()) and time.monotonic() - self._asked > FRESH_S:
            asking = self._asking = asyncio.create_task(self._ask())
        if asking is not None and not asking.done():
            await asyncio.wait({asking}, timeout=PATIENCE_S)
        return self._states

    async def aclose(self) -> None:
        """Close all connections."""
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking
        for host in self._hosts.values():
            await host.aclose()

    async def _ask(self) -> None:
        states = await asyncio.gather(*(host.state() for host in self._hosts.values()))
        self._states = dict(zip(self._hosts, states, strict=True))
        self._asked = time.monotonic()


@dataclass
class _Host:
    """The connections to one host."""

    backend: str
    socket: Path
    absent: bool
    _in_flight: int = 0
    _session: aiohttp.ClientSession | None = None

    def _http(self) -> aiohttp.ClientSession:
        # A session belongs to the event loop in which it is made. aiohttp takes a twentieth of httpx's time here: under
        # load that time is missing from the network.
        if self._session is None:
            connector = aiohttp.UnixConnector(str(self.socket), limit=MOST + 8, keepalive_timeout=KEPT_S)
            self._session = aiohttp.ClientSession(
                "http://host", connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
        return self._session

    async def embed(self, model: Model, inputs: Sequence[bytes], timeout_s: float, kind: wire.Inputs) -> Embedded:
        if self._in_flight >= MOST:
            raise Overloaded(
                f"{MOST} requests are in flight to the model host of {self.backend}. Send the request again later.",
                retry_after_s=BROKEN_RETRY_S,
            )
        self._in_flight += 1
        try:
            status, headers, content = await self._post(model, inputs, timeout_s, kind)
        finally:
            self._in_flight -= 1
        if status != HTTPStatus.OK:
            raise _refusal(status, headers, content)
        return Embedded(_array(content), headers.get(wire.DIGEST, ""), headers.get(wire.TRANSFORM, "{}"))

    async def _post(
        self, model: Model, inputs: Sequence[bytes], timeout_s: float, kind: wire.Inputs
    ) -> tuple[int, Mapping[str, str], bytes]:
        described = json.dumps(model)
        if len(described) > MAX_MODEL:
            raise InvalidRequest(
                f"The model's description has {len(described):,} bytes; {MAX_MODEL:,} fit into a request. Give the "
                "model a name in catalogue.toml.",
                field="model",
            )
        headers = {
            wire.MODEL: described,
            wire.LENGTHS: ",".join(str(len(each)) for each in inputs),
            wire.INPUTS: kind,
            wire.TIMEOUT_MS: str(int(1000 * timeout_s)),
            "Content-Length": str(sum(map(len, inputs))),
        }
        timeout = aiohttp.ClientTimeout(total=timeout_s + GRACE_S, sock_connect=CONNECT_S)
        try:
            async with self._http().post("/embed", data=_pieces(inputs), headers=headers, timeout=timeout) as answer:
                return answer.status, answer.headers, await answer.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if self.absent:
                raise BackendNotInstalled(not_installed(f"{EXTRACT}{self.backend}")) from error
            raise ModelHostDown(host_missing(self.backend), retry_after_s=START_RETRY_S) from error
        except TimeoutError as error:
            raise ModelHostDown(
                f"The model host of {self.backend} did not answer within {timeout_s:g} s. Send the request again; for "
                "many images use `POST /extract`.",
                retry_after_s=START_RETRY_S,
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ModelHostDown(
                f"The model host of {self.backend} ended while it worked on this request. Send the request again.",
                retry_after_s=BROKEN_RETRY_S,
            ) from error

    async def state(self) -> HostState:
        """What it says about itself; that it does not answer, if it does not."""
        try:
            async with self._http().get(
                "/models", timeout=aiohttp.ClientTimeout(total=ASK_S), raise_for_status=True
            ) as answer:
                described = json.loads(await answer.read())
            names = frozenset(str(model["name"]) for model in described["models"])
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
            return HostState()
        return HostState(True, names)

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _array(content: bytes) -> NDArray[np.float32]:
    """The array in an `.npy` file."""
    start = 10 + int.from_bytes(content[8:10], "little")
    shape, dtype = _layout(content[:start])
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


@lru_cache(maxsize=256)
def _layout(header: bytes) -> tuple[tuple[int, ...], np.dtype[np.float32]]:
    """Shape and type in the header of an `.npy` file. Parsing one takes longer than all else about an answer."""
    found = read_header(io.BytesIO(header))
    return found.shape, found.dtype


async def _pieces(inputs: Sequence[bytes]) -> AsyncIterator[bytes]:
    for each in inputs:
        yield each


def _refusal(status: int, headers: Mapping[str, str], content: bytes) -> ShoalError:
    """The problem that a host answered, with its status and the seconds after which to try again."""
    try:
        problem = json.loads(content)
    except ValueError:
        problem = None
    return relayed(problem, status, headers.get("Retry-After", ""), "The model host")
