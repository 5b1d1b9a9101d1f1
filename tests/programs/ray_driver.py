"""A job's process that has tasks on a Ray cluster until it is ended: prints where it is, and the code of its error."""

from __future__ import annotations

import sys
import time

from clusterer.ray.session import Workers, connect
from clusterer.ray.tasks import run_tasks
from shoal.errors import ShoalError
from shoal.schemas.execution import Execution
from shoal.settings import Settings


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


try:
    with connect(Execution(engine="ray"), Settings()) as session:
        for index, _ in run_tasks(session, time.sleep, [0.05] * 100_000, workers=Workers(2, 1, 0, 2**20)):
            if index == 0:
                say("running")
except ShoalError as error:
    say(f"{error.code} {error.detail}")
    sys.exit(1 if error.retryable else 2)
