"""The extractor's API, which dies by SIGKILL once its first job is in the queue: the caller never hears of it.

Arguments: the port to listen on.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

from extractor.__main__ import main
from shoal.jobs.queue import JobQueue


def submit_and_die(self: JobQueue, *given: Any, **named: Any) -> NoReturn:
    submit(self, *given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")


if __name__ == "__main__":
    submit, JobQueue.submit = JobQueue.submit, submit_and_die  # type: ignore[method-assign]
    sys.exit(main(["api", "--port", sys.argv[1]]))
