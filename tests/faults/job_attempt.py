"""What the fault tests of duplicates, quality, bulk assignment and clusterings run in processes that are to be killed.

As a script::

    job_attempt.py undisturbed REQUESTS    a job of each kind; prints kinds and ids
    job_attempt.py spoilt REQUESTS         two of each kind, whose files are spoilt before they publish; prints the same
    job_attempt.py worker HALTS            a worker of all kinds, whose children stand still at the points of HALTS
    job_attempt.py child HALTS run-job     such a child

The store is that of the environment. Parts and blocks are small, so that a small set has several of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import files as store_files
from shoal.store import sealed
from shoal.store.files import files_below

BLOCK = 100
KINDS = ("assign", "cluster", "duplicates", "quality")
MODULES = {"cluster": "clusterer.pipeline"}
"""What runs a kind that has no module of its name."""


def small_parts() -> None:
    """Make parts and blocks small, and keep the nearest rows after every block."""
    from clusterer.jobs import assign
    from clusterer.neighbours import work
    from clusterer.neighbours.bounds import PlainBounds
    from clusterer.neighbours.sketched import SketchedBounds

    for place, name in ((assign, "ROW_GROUP"), (PlainBounds, "BLOCK"), (SketchedBounds, "BLOCK")):
        setattr(place, name, BLOCK)
    keep_best = work.Work.keep_best

    def always(self: work.Work, best: Any, blocks: int) -> None:
        self._saved = float("-inf")
        keep_best(self, best, blocks)

    work.Work.keep_best = always  # type: ignore[method-assign]


def undisturbed(requests: dict[str, dict[str, Any]]) -> None:
    """A job of each kind that nothing happens to."""
    small_parts()
    jobs = {}
    for kind, request in requests.items():
        job = JobContext.local(request, kind=kind)
        import_module(MODULES.get(kind, f"clusterer.jobs.{kind}")).run(job, Settings())
        jobs[kind] = job.id
    print(json.dumps(jobs))  # noqa: T201


def spoilt(requests: dict[str, dict[str, Any]]) -> None:
    """Jobs of each kind that lose their power before they publish: all that they kept is empty, or cut off."""
    small_parts()
    jobs = {}

    class PowerCut(BaseException):
        """No handler of an error takes it for its own."""

    for kind, request in requests.items():
        run = import_module(MODULES.get(kind, f"clusterer.jobs.{kind}")).run
        for keep in (0.0, 0.6):
            job = JobContext.local(request, kind=kind)
            with patch.object(sealed, "publish_folder", side_effect=PowerCut), suppress(PowerCut):
                run(job, Settings())
            kept = files_below(Settings().store / ".work" / f"{kind[0]}-{job.id}")
            for file in kept:
                os.truncate(file, int(keep * file.stat().st_size))
            run(job, Settings())
            jobs[f"{kind} {keep}"] = [job.id, len(kept)]
    print(json.dumps(jobs))  # noqa: T201


def halting(halts: Path) -> None:
    """Have the child stand still once it has kept a file whose name is in the folder ``halts``; once for each."""

    def at(act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            done = act(*args, **options)
            point = _point(args)
            try:
                (halts / point).rename(halts / f"{point}.{os.getpid()}")
            except FileNotFoundError:
                return done
            while True:
                signal.pause()

        return call

    for module, name in ((store_files, "replace_file"), (sealed, "publish_folder")):
        setattr(module, name, at(getattr(module, name)))


def _point(args: tuple[Any, ...]) -> str:
    """What a job has kept: `duplicates.pairs.npz`, `assign.published`."""
    final = next(each for each in reversed(args) if isinstance(each, Path))
    kind = next((each for each in KINDS if any(part.startswith(f"{each[0]}-") for part in final.parts)), "other")
    return f"{kind}.{'published' if final.name.startswith(f'{kind[0]}-') else final.name}"


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "undisturbed":
        undisturbed(json.loads(arguments[0]))
    elif command == "spoilt":
        spoilt(json.loads(arguments[0]))
    elif command == "worker":
        from shoal.jobs.service import run_worker

        run_worker("clusterer-worker", KINDS, [sys.executable, __file__, "child", *arguments], package="clusterer")
    else:
        halting(Path(arguments[0]))
        small_parts()
        from clusterer.__main__ import main

        sys.exit(main(["run-job"]))
