"""``python -m tests.faults.steps PATH FAULTS [EVERY]``: strikes a commit path's steps; prints a line for each.

Run it with the library of `shim.c` preloaded. The first line is the number of steps of an undisturbed attempt. FAULTS
are names with commas between them; of the steps, each EVERY-th is struck.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from shoal import logs

from tests.faults.steps.paths import PATHS
from tests.faults.steps.striking import Bench, Fault


def say(document: object) -> None:
    """Print a line."""
    sys.stdout.write(f"{json.dumps(document)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    name, faults, *every = sys.argv[1:]
    path = PATHS[name]
    logs.configure("steps")  # what jobs log goes to standard error
    path.imports()
    pa.array([""])  # imports pandas where there is one
    with tempfile.TemporaryDirectory(prefix="shoal-steps-") as folder:
        bench = Bench(path, Path(folder))
        say(bench.steps)
        for fault in faults.split(","):
            for blow in bench.strike_all(Fault[fault], int(every[0]) if every else 1):
                say(asdict(blow))
