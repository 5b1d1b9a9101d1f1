"""HTTP clients for the benchmarks that cost little beside what they measure: one connection each, no parsing."""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Post:
    """A request to send again and again."""

    url: str
    body: bytes
    content_type: str = "application/octet-stream"

    @classmethod
    def embeddings(cls, url: str, model: str, image: bytes) -> Post:
        """``POST /v1/embeddings`` of one image."""
        uri = "data:image/jpeg;base64," + base64.b64encode(image).decode()
        body = json.dumps({"model": model, "input": uri, "encoding_format": "base64"}).encode()
        return cls(f"{url}/v1/embeddings", body, "application/json")

    @property
    def content(self) -> bytes:
        """As it is sent."""
        place = urlsplit(self.url)
        head = (
            f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@dataclass
class Seen:
    """The answers that the clients got.

    Attributes
    ----------
    seconds
        Of each request that was answered with 200.
    statuses
        How many answers there were of each status; an exception's name where there was none.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    lasted_s: float = 0.0

    def summary(self) -> dict[str, float]:
        """Rate and milliseconds."""
        cuts = statistics.quantiles(self.seconds, n=100, method="inclusive")
        return {
            "n": len(self.seconds),
            "per_s": round(len(self.seconds) / self.lasted_s, 2),
            "p50_ms": round(cuts[49] * 1000, 2),
            "p99_ms": round(cuts[98] * 1000, 2),
            "max_ms": round(max(self.seconds) * 1000, 2),
            "failed": sum(self.statuses.values()) - len(self.seconds),
        }


Check = Callable[[int, bytes], None]
"""Called with the status and the body of each answer."""


async def client(posts: Sequence[Post], go_on: Callable[[int], bool], seen: Seen, check: Check | None = None) -> None:
    """Send ``posts`` in turn over one connection while ``go_on(requests sent)``."""
    contents = [post.content for post in posts]
    place = urlsplit(posts[0].url)
    sent = 0
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while go_on(sent):
        start = time.perf_counter()
        try:
            if connection is None:
                connection = await asyncio.open_connection(place.hostname, place.port)
            status, body = await exchange(*connection, contents[sent % len(contents)])
        except (OSError, EOFError) as error:
            seen.statuses[type(error).__name__] += 1
            connection = None
            continue
        finally:
            sent += 1
        seen.statuses[str(status)] += 1
        if status == 200:
            seen.seconds.append(time.perf_counter() - start)
        if check is not None:
            check(status, body)
    if connection is not None:
        connection[1].close()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to one request."""
    writer.write(content)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return status, await reader.readexactly(length)


def one_by_one(post: Post, count: int) -> Seen:
    """``count`` requests, one after another."""
    return _run([post], 1, lambda sent: sent < count)


def for_seconds(posts: Sequence[Post], clients: int, seconds: float) -> Seen:
    """Requests of ``clients`` clients at once."""
    end = time.monotonic() + seconds
    return _run(posts, clients, lambda sent: time.monotonic() < end)


def _run(posts: Sequence[Post], clients: int, go_on: Callable[[int], bool]) -> Seen:
    async def all_of_them() -> Seen:
        seen = Seen()
        start = time.monotonic()
        turns = [[*posts[number % len(posts) :], *posts[: number % len(posts)]] for number in range(clients)]
        await asyncio.gather(*(client(turn, go_on, seen) for turn in turns))
        seen.lasted_s = time.monotonic() - start
        return seen

    return asyncio.run(all_of_them())
