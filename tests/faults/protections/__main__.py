"""Remove each protection in a copy of the code, and see its tests fail: ``python -m tests.faults.protections``."""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from shoal.process import kill_group

from tests.faults.protections.catalogue import PROTECTIONS, Protection

ROOT = Path(__file__).parents[3]
FAILED = "failed"
KINDS = (FAILED, "error", "passed", "skipped")
"""What can become of a case; that of a test is the first that a case has."""
LEFT_OUT = (".git", ".venv", "*.pyc", "demo", "build", "dist", "site")
DEADLINE_S = 30
"""What a test waits for rarely comes without a protection: so long it waits."""
POLL_S, END_S = 0.2, 5.0
LIMIT_S = 900
"""So long the tests of a protection may take; what has not failed by then has not noticed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how the tests notice each protection that is missing; 1 if one does not, or fails with all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.protections", description=__doc__)
    parser.add_argument("words", nargs="*", help="only protections whose name or tests have one of these in them")
    parser.add_argument("--unchecked", action="store_true", help="do not see first that the tests pass with them")
    chosen = parser.parse_args(arguments)
    protections = [each for each in PROTECTIONS if not chosen.words or any(word in str(each) for word in chosen.words)]
    wrong = 0
    if not chosen.unchecked:
        nothing = Protection("nothing", (), tuple(dict.fromkeys(test for each in protections for test in each.tests)))
        wrong += not all(each == "passed" for each in shown(nothing).values())
    for each in protections:
        wrong += not all(how.startswith(FAILED) for how in shown(each).values())
    print(f"{len(protections)} protections removed, {wrong} times not as expected")  # noqa: T201
    return min(wrong, 1)


def shown(protection: Protection) -> dict[str, str]:
    """What became of a protection's tests without it, after it is printed."""
    began = time.monotonic()
    found = without(protection)
    print(f"{time.monotonic() - began:4.0f} s  without {protection.name}:", flush=True)  # noqa: T201
    for test, how in found.items():
        print(f"        {test.partition('::')[2]}: {how}", flush=True)  # noqa: T201
    return found


def without(protection: Protection) -> dict[str, str]:
    """What becomes of each of its tests without it: ``passed``, ``failed: `` and why, or why it did not run."""
    with tempfile.TemporaryDirectory(prefix="shoal-without-") as folder:
        copy, report = Path(folder) / "code", Path(folder) / "report.xml"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        for edit in protection.edits:
            edited = copy / edit.file
            text = edited.read_text()
            if text.count(edit.old) != 1:
                raise SystemExit(f"{edit.file} has {edit.old!r} {text.count(edit.old)} times; change the catalogue.")
            edited.write_text(text.replace(edit.old, edit.new))
        command = [str(interpreter(Path(folder), copy)), "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", f"--basetemp={folder}/tests", *protection.tests]
        command += [f"--timeout={LIMIT_S // 4}"] if protection.edits else []
        environment = {**os.environ, "SHOAL_TEST_DEADLINE_S": str(DEADLINE_S)} if protection.edits else os.environ
        with (Path(folder) / "log").open("w+b") as log:
            # A group of its own, all of which is ended: tests that are cut off leave servers behind.
            process = subprocess.Popen(
                command, cwd=copy, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            end = time.monotonic() + (LIMIT_S if protection.edits else math.inf)
            while process.poll() is None and not report.exists() and time.monotonic() < end:
                time.sleep(POLL_S)
            # Without a protection a thread may keep it from ending for ever.
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            kill_group(process.pid)
            process.wait()
            if not report.exists():
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace")[-4000:])
                return dict.fromkeys(protection.tests, "did not end")
        found = outcomes(report)
    return {
        test: min(
            (how for name, how in found if matches(test, name)),
            key=lambda how: KINDS.index(how.partition(":")[0]),
            default="did not run",
        )
        for test in protection.tests
    }


def outcomes(report: Path) -> list[tuple[str, str]]:
    """What became of each case, named ``module::name``."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        how = "passed"
        for kind in ("skipped", "error", "failure"):
            for each in case.findall(kind):
                why, _, _ = (each.get("message") or "").partition("\n")
                how = f"{FAILED if kind == 'failure' else kind}: {why[:150]}"
        found.append((f"{case.get('classname')}::{case.get('name')}", how))
    return found


def interpreter(folder: Path, copy: Path) -> Path:
    """A Python with the libraries of this one and the code of the copy, also in the processes that tests start."""
    made = folder / "venv"
    venv.create(made, symlinks=True)
    [site] = made.glob("lib/python*/site-packages")
    libraries = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (site / "code.pth").write_text(f"{copy / 'shared'}\n{copy / 'services'}\n{libraries}\n")
    return made / "bin" / "python"


def matches(test: str, case: str) -> bool:
    """Whether ``case`` is the test with this id, or one of its cases."""
    file, *names = test.split("::")
    dotted = ".".join([file.removesuffix(".py").replace("/", "."), *names[:-1]])
    name = f"{dotted}::{names[-1]}"
    return case == name or re.sub(r"\[.*\]$", "", case) == name


if __name__ == "__main__":
    sys.exit(main())
