"""Files of Debian's packages, without installing them and without root."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

TOOLS = ("apt-get", "dpkg-deb")


def unpack(package: str, work: Path, folder: str) -> Path:
    """Download ``package`` into ``work`` and unpack it into ``folder`` there.

    Raises
    ------
    subprocess.CalledProcessError
        It cannot be downloaded; ``stderr`` says why.
    FileNotFoundError
        One of `TOOLS` is not on this machine.
    """
    try:
        run(["apt-get", "download", package], work)
    except subprocess.CalledProcessError:
        _download_with_own_lists(package, work)
    run(["dpkg-deb", "-x", next(work.glob("*.deb")).name, folder], work)
    return work / folder


def _download_with_own_lists(package: str, work: Path) -> None:
    """Download where the machine's lists of packages are empty, as in a fresh container, or too old.

    The new lists are kept beside the download: the machine's own need root, and are not ours to change.
    """
    (work / "apt/lists/partial").mkdir(parents=True)
    (work / "apt/cache/archives/partial").mkdir(parents=True)
    options = ["-o", f"Dir::State::lists={work}/apt/lists", "-o", f"Dir::Cache={work}/apt/cache"]
    with suppress(subprocess.CalledProcessError):  # One source that does not answer need not be ours.
        run(["apt-get", *options, "update"], work)
    run(["apt-get", *options, "download", package], work)


def run(words: list[str], work: Path) -> None:
    """Run a command in ``work``, its output kept for errors."""
    subprocess.run(words, cwd=work, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
