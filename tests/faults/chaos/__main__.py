"""The command of the package; its last line is ``N faults, M jobs, V violations``, its status 1 with violations."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.faults.chaos import __doc__ as what
from tests.faults.chaos.faults import Faults
from tests.faults.chaos.installation import Installation
from tests.faults.chaos.invariant import Judgement, judge
from tests.faults.chaos.load import Load, make_images


class Outcome(NamedTuple):
    """Faults that hit something while a job ran, by kind; how jobs ended; right answers of online requests."""

    faults: Counter[str]
    answers: int
    judgement: Judgement

    def __str__(self) -> str:
        return (
            f"{self.faults.total()} faults, {self.judgement.jobs.total()} jobs, "
            f"{len(self.judgement.violations)} violations"
        )


def run(folder: Path, seed: int, seconds: float) -> Outcome:
    """One run in an empty folder."""
    rng = random.Random(f"{seed}-faults")
    installation = Installation(folder)
    load, faults = Load(installation, seed), Faults(installation, rng)
    hits: Counter[str] = Counter()
    try:
        make_images(installation.data, seed)
        installation.start()
        load.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(rng.uniform(0.2, 2.0))
            live = faults.busy()
            hit = faults.one()
            installation.revive()
            if hit is not None and live:
                hits[hit] += 1
        faults.end()
        load.stop()
        installation.wake()
        return Outcome(hits, load.answers, judge(installation, load, faults.cancelled))
    finally:
        load.stop()
        faults.end()
        installation.close()


def main() -> int:
    """Run, and print what happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=what)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long there are faults (%(default)s)")
    parser.add_argument("--seed", type=int, help="of requests and faults; by default a new one")
    parser.add_argument("--folder", type=Path, help="keep data, store and logs in this empty folder")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    folder = options.folder or Path(tempfile.mkdtemp(prefix="shoal-chaos-"))
    print(f"seed {seed}, folder {folder}", flush=True)
    outcome = run(folder, seed, options.seconds)
    for kind, count in sorted(outcome.faults.items()):
        print(f"{count:5d} {kind}")
    print(f"jobs: {dict(outcome.judgement.jobs)}; {outcome.answers} online answers")
    for each in outcome.judgement.violations:
        print(f"violation: {each}")
    if options.folder is None and not outcome.judgement.violations:
        shutil.rmtree(folder)
    print(outcome)
    return 1 if outcome.judgement.violations else 0


if __name__ == "__main__":
    sys.exit(main())
