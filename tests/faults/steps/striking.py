"""Strikes one step of what changes a store, lets its owner repeat it, and says what is wrong then."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path

from shoal import gc
from shoal.errors import ShoalError
from shoal.jobs.child import as_shoal_error
from shoal.store import Store
from shoal.store.files import files_below
from shoal.store.uploads import Uploads
from shoal.store.verify_results import verify_all

VOLATILE = re.compile(
    r"embeddings/[^/]+/(commits/[0-9]+|manifest)\.json|annotations/.*|uploads/[^/]+/(upload\.json|parts\.jsonl)"
    r"|sweeps/[^/]+/points/.*|.*/(run\.json|files\.json|done\.json|iterations\.parquet|report\.html)"
)
"""Files that say when, how long and by whom something was written, or have the checksum of one that does."""
Facts = Callable[[Store], object]


class Fault(IntEnum):
    """What happens at the chosen step; numbers of `shim.c`."""

    COUNT = 0
    """Nothing: the steps are counted."""
    KILL = 1
    """The process dies before the step."""
    IO_ERROR = 2
    """The step fails with EIO; later ones succeed."""
    DISK_FULL = 3
    """The step fails with ENOSPC, and so does each later one that needs space."""
    SHORT_WRITE = 4
    """The step, a write, writes half of what it was given, and says so."""
    TORN_WRITE = 5
    """The process dies when half of a write is done."""
    REPLY_LOST = 6
    """The step, a rename or a link, is done, but fails with EIO."""


@dataclass(frozen=True)
class CommitPath:
    """One way of changing a store.

    Attributes
    ----------
    prepare
        Makes what is there before.
    attempt
        What is struck; its owner repeats it until it succeeds.
    facts
        What the repeated attempts must lead to, beside the bytes of the files; JSON.
    imports
        Imports what attempts need, once for all of them.
    damaged
        Whether it begins with damage, which the attempt mends.
    """

    prepare: Callable[[Store], None]
    attempt: Callable[[Store], object]
    facts: Facts = field(default=lambda _: None)
    imports: Callable[[], object] = field(default=lambda: None)
    damaged: bool = False


@dataclass
class Blow:
    """What one fault did: the call that was struck, the code of the attempt's error, and what is wrong afterwards."""

    fault: str
    step: int
    struck: str = ""
    died: bool = False
    error: str | None = None
    problems: list[str] = field(default_factory=list)


class Shim:
    """The preloaded library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_arm.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_long)
        self._library.faults_count.restype = ctypes.c_long
        self._library.faults_struck.restype = ctypes.c_char_p

    def arm(self, folder: Path, fault: Fault, step: int) -> None:
        """Strike the ``step``-th call that changes something below ``folder``, counted from 1."""
        self._library.faults_arm(os.fsencode(folder), int(fault), step)

    def disarm(self) -> tuple[int, str]:
        """Strike no more; how many steps there were, and the name of the one that was struck."""
        self._library.faults_disarm()
        return int(self._library.faults_count()), self._library.faults_struck().decode()


@dataclass
class Bench:
    """Where a commit path is struck again and again, each time from the same start.

    Parameters
    ----------
    path
        What is struck.
    folder
        Empty; takes all files.
    """

    path: CommitPath
    folder: Path

    def __post_init__(self) -> None:
        self.shim = Shim()
        self.store = self.folder / "store"
        self.base = self.folder / "base"
        self.said = self.folder / "said.json"
        self.store.mkdir()
        _forked(lambda: self.path.prepare(Store(self.store)))
        self.store.rename(self.base)
        self.steps = self._undisturbed()

    def _undisturbed(self) -> int:
        """Attempt it unharmed, and remember what that gives."""
        self._reset()

        def act() -> None:
            self.shim.arm(self.store, Fault.COUNT, 0)
            self.path.attempt(Store(self.store))
            steps, _ = self.shim.disarm()
            self.said.write_text(json.dumps([steps, self.path.facts(Store(self.store))]))

        _forked(act)
        steps, self.facts = json.loads(self.said.read_text())
        store = Store(self.store)
        left = list(gc.find(store, None, work_age_s=0))
        self.usual = {self._name(each.path).partition("/")[0] for each in left}
        for each in left:
            gc.remove(store, each)
        self.expected = dict(contents(self.store))
        return int(steps)

    def strike_all(self, fault: Fault, every: int = 1) -> Iterator[Blow]:
        """Strike each step, or each ``every``-th, which ones depends on the fault, until there is none left."""
        step = 1 + fault % every
        while (blow := self.strike(fault, step)).struck or blow.died:
            yield blow
            step += every

    def strike(self, fault: Fault, step: int) -> Blow:
        """Strike one step, and have the attempt repeated."""
        self._reset()
        code = _forked(lambda: self._struck(fault, step), may_die=True)
        if code == -signal.SIGKILL:
            self.said.write_text(json.dumps(asdict(Blow(fault.name, step, died=True))))
            _forked(lambda: self._repeated(fault))
        return Blow(**json.loads(self.said.read_text()))

    def _struck(self, fault: Fault, step: int) -> None:
        blow, caught = Blow(fault.name, step), None
        self.shim.arm(self.store, fault, step)
        try:
            self.path.attempt(Store(self.store))
        except Exception as error:  # what a job or a request would report
            caught = error
        _, blow.struck = self.shim.disarm()
        if caught is not None:
            blow.error = as_shoal_error(caught).code
        self.said.write_text(json.dumps(asdict(blow)))
        if blow.struck:
            self._judge(blow, fault, caught)
            self._repeated(fault)
        elif caught is not None:
            raise caught

    def _judge(self, blow: Blow, fault: Fault, caught: Exception | None) -> None:
        """Whether the attempt said what happened to it."""
        if blow.error == "internal_error":
            blow.problems.append(f"reported as {type(caught).__name__}: {caught}")
        if fault is Fault.DISK_FULL and blow.error not in {None, "store_full"}:
            blow.problems.append(f"a full disk was reported as {blow.error}: {caught}")
        if fault is Fault.SHORT_WRITE and blow.error is not None:
            blow.problems.append(f"a short write failed: {caught}")
        if fault is Fault.IO_ERROR and "sync" in blow.struck and blow.error is None:
            blow.problems.append("a failed sync went unnoticed")
        if blow.error is None:
            blow.problems += self._differences("at once")
        self.said.write_text(json.dumps(asdict(blow)))

    def _repeated(self, fault: Fault) -> None:
        """What is there counts whole or not at all; the next attempt makes it good, and nothing else stays."""
        self.shim.arm(self.store, Fault.COUNT, 0)  # it need not wait for the disk either
        blow = Blow(**json.loads(self.said.read_text()))
        store = Store(self.store)
        if not self.path.damaged:
            blow.problems += [f"after the fault: {each}" for each in damage(store)]
        try:
            self.path.attempt(store)
        except Exception as error:  # said, so that the other steps are struck too
            blow.problems.append(f"the next attempt failed: {type(error).__name__}: {error}")
        left = list(gc.find(store, None, work_age_s=0))
        if fault in {Fault.DISK_FULL, Fault.SHORT_WRITE}:
            names = (self._name(each.path) for each in left)
            blow.problems += [f"left behind: {name}" for name in names if name.partition("/")[0] not in self.usual]
        for each in left:
            gc.remove(store, each)
        blow.problems += self._differences("in the end")
        self.said.write_text(json.dumps(asdict(blow)))

    def _differences(self, when: str) -> Iterator[str]:
        """What is otherwise than after an undisturbed attempt; leftovers that `shoal gc` finds do not count."""
        store = Store(self.store)
        yield from (f"{when}: {each}" for each in damage(store))
        found = dict(contents(self.store))
        leftovers = [each.path for each in gc.find(store, None, work_age_s=0)]
        for name in sorted(found.keys() | self.expected.keys()):
            if any((self.store / name).is_relative_to(each) for each in leftovers):
                continue
            if name not in found or name not in self.expected:
                yield f"{when}: {name} is {'missing' if name not in found else 'left'}"
            elif found[name] != self.expected[name]:
                yield f"{when}: {name} has other bytes"
        try:
            facts = json.loads(json.dumps(self.path.facts(store)))
        except ShoalError as error:
            facts = error.detail
        if facts != self.facts:
            yield f"{when}: {facts} instead of {self.facts}"

    def _reset(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.base, self.store)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.store).as_posix()


def contents(root: Path) -> Iterator[tuple[str, bytes]]:
    """The files below a folder by name, with their bytes; of those that differ from run to run, the names alone."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file():
            yield name, b"" if VOLATILE.fullmatch(name) else path.read_bytes()


def damage(store: Store) -> list[str]:
    """What `shoal verify` finds, and uploads with other files than those of the parts that count."""
    found = [
        f"{report.id}/{each.file} {each.problem}" for report in verify_all(store.layout) for each in report.problems
    ]
    for upload in Uploads(store.layout).all():
        folders = [upload.layout.images, *(upload.layout.arrived / str(part.arrived) for part in upload.parts.values())]
        files = sum(len(files_below(folder)) for folder in folders)
        if files != upload.images:
            found.append(f"{upload.id} has {files} files of the {upload.images} of its parts")
    return found


def _forked(act: Callable[[], object], *, may_die: bool = False) -> int:
    """Do something in a process of its own, which ends by a signal or with success."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        except BaseException:  # a process of pytest's or of the main program must not go on here
            traceback.print_exc()
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code and not (may_die and code == -signal.SIGKILL):
        raise SystemExit(f"a process ended with {code}")
    return code
