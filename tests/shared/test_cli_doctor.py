"""`shoal doctor` looks at what runs on the store, and its exit status says whether something is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shoal.cli import app as cli
from shoal.cli import doctor as module
from shoal.embedded import open_queue, runfile
from shoal.jobs.queue import JobQueue
from shoal.process import free_port
from typer.testing import CliRunner, Result


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SHOAL_") or name == "REDIS_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _doctor(store: Path) -> Result:
    return CliRunner().invoke(cli, ["doctor", "--store", str(store)])


def test_nothing_runs_and_nothing_is_wrong(tmp_path: Path) -> None:
    done = _doctor(tmp_path / "store")
    assert done.exit_code == 0, done.output
    assert "queue              not running; `shoal up` starts it" in done.output
    assert "{" not in done.output


def test_the_queue_of_the_store_is_asked(tmp_path: Path) -> None:
    with open_queue(tmp_path, "a test", create=True) as url:
        queue = JobQueue.from_url(str(url))
        queue.submit("cluster", {})
        queue.close()
        done = _doctor(tmp_path)
    assert "queue              of the store: 0 jobs running, 1 queued" in done.output
    assert f"running            a test, process {os.getpid()}" in done.output


def test_a_running_stack_that_does_not_answer_is_wrong(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "pictures").mkdir()
    (tmp_path / "store" / ".queue").mkdir(parents=True)
    running = runfile.this_process("shoal up")
    facts = {**running.__dict__, "extractor": url, "clusterer": url, "data": str(tmp_path / "pictures")}
    runfile.write(tmp_path / "store", runfile.RunningStack(**facts))
    done = _doctor(tmp_path / "store")
    assert done.exit_code == 1
    assert f"extractor          does not answer at {url}" in done.output
    assert str(tmp_path / "pictures") in done.output


def test_a_full_disk_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 2**60)
    done = _doctor(tmp_path)
    assert done.exit_code == 1
    assert "`shoal gc` lists what can be removed" in done.output


def test_what_nobody_runs_is_named_and_nothing_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {
        "ready": True,
        "checks": {"queue": "ok"},
        "missing": {"extract:tfserving": "No worker runs."},
        "hosts": {"torch": "ok", "tfserving": "No host answers."},
    }
    assert module._service("extractor", "http://here", answer, expected=True)
    lines = [line.split("]")[-1].strip() for line in capsys.readouterr().out.splitlines()]
    assert [line.removeprefix("--").strip() for line in lines][1:] == ["No worker runs.", "No host answers."]
