"""Remove each protection in a copy of the code, and see its tests fail: ``python -m tests.faults.protections``."""

from __future__ import annotations

import argparse
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
from pathlib import Path

from tests.faults.protections.catalogue import PROTECTIONS, Protection

ROOT = Path(__file__).parents[3]
LEFT_OUT = (".git", ".venv", "*.pyc", "demo", "build", "dist", "site")
DEADLINE_S = 30
"""What a test waits for rarely comes without a protection: so long it waits."""
LIMIT_S = 900


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each protection; 1 if a test does not notice that one is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.protections", description=__doc__)
    parser.add_argument("words", nargs="*", help="only protections whose name or tests have one of these in them")
    words = parser.parse_args(arguments).words
    chosen = [each for each in PROTECTIONS if not words or any(word in str(each) for word in words)]
    blind = 0
    for each in chosen:
        began = time.monotonic()
        seen = without(each)
        blind += None in seen.values()
        print(f"{time.monotonic() - began:4.0f} s  without {each.name}:", flush=True)  # noqa: T201
        for test, message in seen.items():
            print(f"        {test.partition('::')[2]}: {message or 'NOT NOTICED'}", flush=True)  # noqa: T201
    print(f"{len(chosen)} protections removed, {blind} not noticed")  # noqa: T201
    return min(blind, 1)


def without(protection: Protection) -> dict[str, str | None]:
    """How each of the protection's tests fails without it; None for one that passes, or does not run."""
    with tempfile.TemporaryDirectory(prefix="shoal-without-") as folder:
        copy = Path(folder) / "code"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        for edit in protection.edits:
            edited = copy / edit.file
            text = edited.read_text()
            if text.count(edit.old) != 1:
                raise SystemExit(f"{edit.file} has {edit.old!r} {text.count(edit.old)} times; change the catalogue.")
            edited.write_text(text.replace(edit.old, edit.new))
        report = Path(folder) / "report.xml"
        command = [
            str(interpreter(Path(folder), copy)),
            "-m",
            "pytest",
            "-q",
            "-m",
            "",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        ]
        command += [f"--timeout={LIMIT_S // 3}", f"--basetemp={folder}/tests", *protection.tests]
        environment = {**os.environ, "SHOAL_TEST_DEADLINE_S": str(DEADLINE_S)}
        log = Path(folder) / "log"
        with log.open("wb") as file:
            subprocess.run(command, cwd=copy, env=environment, stdout=file, stderr=file, check=False, timeout=LIMIT_S)
        if not report.exists():
            sys.stderr.write(log.read_text(errors="replace")[-4000:])
            return dict.fromkeys(protection.tests)
        failed = failures(report)
    return {test: next((message for name, message in failed if matches(test, name)), None) for test in protection.tests}


def interpreter(folder: Path, copy: Path) -> Path:
    """A Python with the libraries of this one and the code of the copy, also in the processes that tests start."""
    made = folder / "venv"
    venv.create(made, symlinks=True)
    [site] = made.glob("lib/python*/site-packages")
    libraries = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (site / "code.pth").write_text(f"{copy / 'shared'}\n{copy / 'services'}\n{libraries}\n")
    return made / "bin" / "python"


def failures(report: Path) -> list[tuple[str, str]]:
    """The tests that failed by themselves, not in what is prepared for them, as ``module::name``, and why."""
    return [
        (f"{case.get('classname')}::{case.get('name')}", (failure.get("message") or "").split("\n")[0][:150])
        for case in ElementTree.parse(report).iter("testcase")
        for failure in case.findall("failure")
    ]


def matches(test: str, failed: str) -> bool:
    """Whether ``failed`` is the test with this id, or one of its cases."""
    file, *names = test.split("::")
    dotted = ".".join([file.removesuffix(".py").replace("/", "."), *names[:-1]])
    name = f"{dotted}::{names[-1]}"
    return failed == name or re.sub(r"\[.*\]$", "", failed) == name


if __name__ == "__main__":
    sys.exit(main())
