"""A log that cannot be written costs its lines, not the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging, sys, structlog
from shoal import logs
logs.configure("tests")
for number in range(5000):
    structlog.get_logger().info("ours", number=number, odd="\\udcff")
    logging.getLogger("theirs").warning("line %s", number)
print("done")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_process_outlives_a_full_log() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=full, check=True)
    assert done.stdout == b"done\n"


def test_a_process_outlives_a_reader_that_has_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stderr is not None
    assert child.stdout is not None
    child.stderr.close()
    assert child.stdout.read() == b"done\n"
    assert child.wait() == 0
    child.stdout.close()


def test_lines_are_whole_and_in_order() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[:4] == ["ours", "line 0", "ours", "line 1"]
    assert len(events) == 10_000


FOLLOWS = """
import structlog
from shoal import logs
from structlog.testing import capture_logs
log = structlog.get_logger("ours")
logs.configure("first")
log.info("in use")
logs.configure("second")
with capture_logs() as lines:
    log.info("seen")
print([line["event"] for line in lines])
"""


def test_a_logger_in_use_follows_the_configuration() -> None:
    done = subprocess.run([sys.executable, "-c", FOLLOWS], capture_output=True, text=True, check=True)
    assert done.stdout == "['seen']\n"
