"""Whether a file still is the one that was recorded: same size, same checksum. Each is hashed once a process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from pathlib import Path

from shoal.store.commits import hash_file
from shoal.store.manifest import FileRecord

SETTLED_S = 2.0
"""A file changed so recently may change again without a new time stamp: nobody remembers that it was right."""
MOST_REMEMBERED = 65_536

_Seen = tuple[int, int, int, int, int, str]
_seen: OrderedDict[_Seen, None] = OrderedDict()
_lock = threading.Lock()


def damage_of(path: Path, record: FileRecord, *, hashed: bool = True) -> str | None:
    """What is wrong with a file, in words that follow its name; None when its bytes are the recorded ones.

    A file that was right is not hashed again by this process as long as its inode, size and times stay.

    Parameters
    ----------
    hashed
        False compares the size alone.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    try:
        status = path.stat()
        if status.st_size != record.bytes:
            return f"has {status.st_size:,} bytes, but {record.bytes:,} were committed"
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, record.xxh3_64)
        if not hashed or _remembered(key):
            return None
        if hash_file(path, sha256=False)[:2] != (record.bytes, record.xxh3_64):
            return "does not have the checksum that was committed: it was damaged, changed or exchanged"
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S:
        _remember(key)
    return None


def _remembered(key: _Seen) -> bool:
    with _lock:
        if key not in _seen:
            return False
        _seen.move_to_end(key)
        return True


def _remember(key: _Seen) -> None:
    with _lock:
        _seen[key] = None
        while len(_seen) > MOST_REMEMBERED:
            _seen.popitem(last=False)
