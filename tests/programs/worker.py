"""A worker whose child is `child.py`; its options come as one JSON argument."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from shoal import logs
from shoal.jobs.queue import JobQueue
from shoal.jobs.redis_scripts import connect
from shoal.jobs.worker import Worker
from shoal.settings import Settings


def main() -> None:
    options = json.loads(sys.argv[1])
    # A clock that is wrong is wrong for the worker alone: under libfaketime, time.sleep of its jobs would fail.
    os.environ.pop("LD_PRELOAD", None)
    logs.configure("worker")
    queue = JobQueue(connect(options["url"]), lease_s=options["lease_s"], backoff_s=0.05)
    settings = Settings(
        lease_s=options["lease_s"],
        beat_s=options["beat_s"],
        kill_grace_s=options["kill_grace_s"],
        child_silence_s=options["child_silence_s"],
        drain_s=options["drain_s"],
    )
    command = [sys.executable, str(Path(__file__).with_name("child.py"))]
    Worker(queue, ["work"], command, settings=settings, name=options["name"]).run()


if __name__ == "__main__":
    main()
