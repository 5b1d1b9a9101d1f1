"""Images at addresses that a list names: how they are listed, and what a decoder gets for them.

An address is its image's id. Nothing is asked when images are listed: a request for each of millions would take longer
than most jobs. What must not have changed is a checksum, where the list has a column for one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from shoal.errors import AddressesNotAllowed, ImageChanged, ImageNotAllowed
from shoal.labels.columns import is_address
from shoal.labels.list_files import ListRow
from shoal.userfiles import shortened

from extractor.images.located import LocatedImage, LostImage
from extractor.remote.allowed import VARIABLE, AddressInvalid, Allowed, parse
from extractor.remote.fetcher import Fetcher, Wanted
from extractor.sources.names import is_text
from extractor.sources.source import FIELD, LOST, Entry, Row

KIND = "url"
REFUSED = f"{LOST} {ImageNotAllowed.code}"
_DIGITS = {"sha256": 64, "md5": 32}
NAMED_HOSTS = 5


def listed(row: ListRow, allowed: Allowed) -> Entry:
    """The entry of a row that names an address; an error as its stamp if nothing there may be fetched."""
    try:
        address = parse(row.path)
    except AddressInvalid:
        return Entry(row.path if is_text(row.path) else repr(row.path), REFUSED, row.label, row.split)
    stamp = f"{KIND} {row.checksum}" if _is_checksum(row.checksum) else KIND
    return Entry(
        address.text, stamp if allowed.allows(address) else REFUSED, row.label, row.split, address.path.lstrip("/")
    )


def _is_checksum(written: str | None) -> bool:
    algorithm, _, digits = (written or "").partition(":")
    return re.fullmatch(r"[0-9a-f]*", digits) is not None and len(digits) == _DIGITS.get(algorithm)


def without_folders(entries: list[Entry]) -> list[Entry]:
    """``entries``, without the folders of addresses that lie on several hosts: those are no classes."""
    hosts = {entry.path.split("/", 3)[2] for entry in entries if is_address(entry.path)}
    if len(hosts) < 2:
        return entries
    return [replace(entry, inner=name(entry.path)) if is_address(entry.path) else entry for entry in entries]


def name(path: str) -> str:
    """The image's own name."""
    return path.partition("?")[0].rpartition("/")[2]


def refusal(refused: Iterable[str], allowed: Allowed, list_name: str) -> AddressesNotAllowed:
    """The error for a list none of whose addresses may be fetched from."""
    hosts: dict[str, None] = {}
    for each in refused:
        try:
            hosts[allowed.wanted(parse(each))] = None
        except AddressInvalid as error:
            hosts[f"{shortened(each)!r}, which {error}"] = None
    named = [*hosts][:NAMED_HOSTS]
    state = "does not name them" if allowed else "is empty"
    return AddressesNotAllowed(
        f"The list {list_name!r} names addresses on {', '.join(named)}{', …' if len(hosts) > len(named) else ''}, but "
        f"{VARIABLE} {state}. Set it to the hosts that images may be fetched from, for the extractor's API and worker.",
        field=FIELD,
        hosts=named,
    )


def fetched(rows: Iterable[Row], fetcher: Fetcher | None) -> Iterator[LocatedImage | None]:
    """The images of rows, fetched ahead; None whenever the next has not arrived."""
    if fetcher is None:
        yield from (LostImage(ImageNotAllowed.code, "Nothing is fetched here.") for _ in rows)
        return
    yield from fetcher.stream(_wanted(row) for row in rows)


def _wanted(row: Row) -> Wanted:
    _, _, checksum = (row.stamp or "").partition(" ")
    return Wanted(parse(row.path), name(row.path), _accepting(checksum))


def _accepting(checksum: str) -> Callable[[bytes], None]:
    algorithm, _, digits = checksum.partition(":")

    def accept(data: bytes) -> None:
        if digits and hashlib.new(algorithm, data, usedforsecurity=False).hexdigest() != digits:
            raise ImageChanged(f"The image's {algorithm} is not the one that the list has: it changed since.")

    return accept
