"""`shoal run` as somebody uses it who has never seen a store: stopped, repeated, on one folder after another."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts.conftest import paint

PER_CLASS = 1500


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "SHOAL_STORE": str(root / "store"), "SHOAL_MODELS": str(root / "models")}
    command = [sys.executable, "-m", "shoal.cli", "run", "--model", "raw_pixels", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, cwd=root, stdout=pipe, stderr=pipe, text=True)


def run(root: Path, *words: str, status: int = 0) -> tuple[str, str]:
    """What `shoal run` prints, and says on the way."""
    process = start(root, *words)
    said = process.communicate(timeout=240)
    assert process.returncode == status, said
    assert "Traceback" not in said[1]
    return said


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in:\n{text}"
    return match[1]


def test_a_run_is_stopped_gone_on_with_and_found_again(
    tmp_path: Path, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # raw_pixels needs no PyTorch, which each of the runs would import ahead.
    monkeypatch.setenv("SHOAL_AHEAD", "false")
    paint(tmp_path / "many", per_class=PER_CLASS)
    first = start(tmp_path, "many")

    def embedding() -> bool:
        assert first.poll() is None, first.communicate()
        # Those of an attempt: what is committed lies a level higher.
        return any(each.stat().st_size > 2**20 for each in tmp_path.glob("store/embeddings/*/*/*/img_emb_*.npy"))

    wait_until(embedding, deadline_s=180, what="the first megabyte")
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130
    kept = found(r"([\d,]+) of 4,500 images are embedded and kept", said)
    assert 0 < int(kept.replace(",", "")) < 3 * PER_CLASS
    assert "Run `shoal run --model raw_pixels many` to continue" in said

    # Another folder neither waits for the first one's job nor runs it.
    other = tmp_path / "ein paar é"
    paint(other / "x", per_class=2)
    for path in sorted(other.rglob("*.png")):
        path.rename(other / f"{path.parent.name}-{path.name}")
    (other / "broken.png").write_bytes(b"no image")
    (tmp_path / "far").mkdir()
    rows = [f"{path.name},{path.name.partition('-')[0]}" for path in other.glob("*-*.png")]
    (tmp_path / "far/labels.csv").write_text("\n".join(["path,label", "broken.png,red", *rows]))
    printed, said = run(tmp_path, str(other), "--labels", "far/labels.csv", "--sheet", "sheets/groups.png")
    assert "many did not finish" in said
    assert "ein paar é: 6 images in 3 groups" in printed
    assert "1 image could not be read" in printed
    assert "broken.png" in printed
    assert (tmp_path / "sheets/groups.png").stat().st_size > 1000

    printed, _ = run(tmp_path, "many")
    # Two images of the other folder are, byte by byte, two of this one.
    assert f"reused {int(kept.replace(',', '')) + 2:,} of 4,500 embeddings" in printed
    clustering = found(r"clustering +(c-\w+)", printed)
    assert Path(found(r"report +(/\S+)", printed)).is_file()
    printed, _ = run(tmp_path, "many")
    assert "reused 4,500 of 4,500 embeddings" in printed
    assert f"{clustering}  (reused" in printed


def test_a_single_image_is_not_grouped(tmp_path: Path) -> None:
    paint(tmp_path / "one", per_class=1)
    for label in ("green", "blue"):
        (tmp_path / "one" / label / "000.png").write_bytes(b"no image")
    _, said = run(tmp_path, "one", "--max-failed-fraction", "1", status=1)
    assert "Only 1 image" in said
    assert "2 could not be read" in said
