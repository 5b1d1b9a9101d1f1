"""What `shoal up` and the commands that start it for themselves tell their processes, and how they bear their ends."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shoal.embedded import Process, Stack, find_stack
from shoal.embedded import stack as module
from shoal.embedded.server import Server
from shoal.errors import StackError


@pytest.fixture
def stack(root: Path) -> Stack:
    return Stack(root / "data", root / "models", root / "store", 0, 0)


@pytest.mark.parametrize("private", [True, False])
def test_a_command_of_one_user_never_joins_the_queue_of_others(
    root: Path, private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_AUTH", "required")
    monkeypatch.setenv("SHOAL_REDIS_PASSWORD_FILE", "/of/another/server")
    monkeypatch.setenv("TF_SERVING_URL", "models:8500")
    stack = Stack(root, root, root, redis_url="redis://shared:6379", single_user=private)
    assert stack.redis_url == (None if private else "redis://shared:6379")
    assert ("SHOAL_REDIS_PASSWORD_FILE" in stack.env) == (not private)
    assert stack.env.get("SHOAL_AUTH") == (None if private else "required")
    assert stack.env["TF_SERVING_URL"] == "models:8500"


def test_each_worker_and_host_has_a_port_of_its_own_for_its_metrics(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_METRICS_PORT", "9100")
    (stack.store / ".logs").mkdir(parents=True)
    try:
        for name in ("extractor-api", "extractor-torch-worker", "clusterer-worker", "extractor-torch-host"):
            stack._spawn(name, ["timeit", "pass"])
        assert [process.env for process in stack.processes] == [
            {},
            {"SHOAL_METRICS_PORT": "9100"},
            {"SHOAL_METRICS_PORT": "9101"},
            {"SHOAL_METRICS_PORT": "9102"},
        ]
    finally:
        stack.stop()


def test_the_clusterer_has_a_worker_whatever_is_installed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "clusterer-worker" in [name for name, _ in stack._commands()]


def test_services_know_which_workers_are_not_installed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorflow" else object())
    assert stack.env["SHOAL_ABSENT_KINDS"] == "extract:tfserving"
    assert "extractor-tfserving-worker" not in [name for name, _ in stack._commands()]


def _started_hosts(stack: Stack) -> list[str]:
    return [name for name, _ in stack._commands() if name.endswith("-host")]


def test_each_installed_backend_has_a_model_host_where_they_are_wanted(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_SERVING_URL", raising=False)
    assert _started_hosts(stack) == []
    stack.hosts = True
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert _started_hosts(stack) == ["extractor-torch-host", "extractor-tfserving-host"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorflow" else object())
    assert _started_hosts(stack) == ["extractor-torch-host"]
    monkeypatch.setenv("TF_SERVING_URL", "models:8500")
    assert _started_hosts(stack) == ["extractor-torch-host", "extractor-tfserving-host"]


@pytest.mark.parametrize("name", ["store", "x" * 120])
def test_services_and_hosts_meet_in_one_folder_that_goes_with_a_stack(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    store = root / name
    server = Server(store, "a test")
    server.lock()
    process, _ = server.start()
    try:
        online = server.online
        assert server.online == online
        assert online.stat().st_mode & 0o777 == 0o700
        assert (online == store / ".online") == (name == "store")
        for each in ("torch.sock", "torch.sock.lock"):
            (online / each).touch()
        assert len(list(root.glob("shoal-*"))) == (0 if name == "store" else 1)
    finally:
        process.kill()
        server.close()
    assert list(root.glob("shoal-*")) == []
    assert (store / ".online").is_dir()


def test_a_host_that_cannot_start_ends_nothing_else(stack: Stack) -> None:
    (stack.store / ".logs").mkdir(parents=True)
    try:
        stack._spawn("extractor-api", ["timeit", "-n1", "-r1", "import time; time.sleep(600)"])
        stack._spawn("extractor-torch-host", ["timeit", "-n1", "-r1", "raise SystemExit('no luck')"])
        stack.processes[1].wait()
        stack._refuse_dead()
        stack.processes[0].kill()
        with pytest.raises(StackError, match="extractor-api exited at startup"):
            stack._refuse_dead()
    finally:
        stack.stop()


class Broken(Stack):
    """A stack whose one process ends with an error at once."""

    script = "raise SystemExit('no luck')"

    def _commands(self) -> Iterator[tuple[str, list[str]]]:
        yield "extractor-api", ["timeit", "-n1", "-r1", self.script]


def test_a_process_that_ends_at_the_start_is_named_with_its_words(root: Path) -> None:
    stack = Broken(root / "data", root / "models", root / "store", 0, 0)
    with pytest.raises(StackError, match=r"extractor-api exited at startup(.|\n)*no luck"):
        stack.start()
    assert stack.processes == []
    assert find_stack(root / "store") is None


def test_a_missing_key_is_named_with_the_store_that_it_goes_to(root: Path) -> None:
    stack = Broken(root / "data", root / "models", root / "store", 0, 0)
    stack.script = """print('{"event": "not listening", "code": "no_keys", "detail": "Make a key."}'); exit(1)"""
    with pytest.raises(StackError, match=rf"^Make a key\..*--store {root}/store"):
        stack.start()


def test_a_disk_that_is_nearly_full_is_named_at_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 2**60)
    with pytest.raises(StackError, match=r"The disk of the store .* has \d+ MiB free"):
        stack.start()


def test_what_ends_again_and_again_is_started_less_and_less_often(root: Path) -> None:
    process = Process("worker", [sys.executable, "-c", "pass"], root / "log")
    pauses = []
    for _ in range(9):
        process.start({})
        process.wait()
        pauses.append(process.ended())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not process.due


def test_what_clients_wait_for_is_started_again_at_once_but_not_again_and_again(root: Path) -> None:
    process = Process("host", [sys.executable, "-c", "pass"], root / "log", at_once=True)
    pauses = []
    for _ in range(4):
        process.start({})
        process.wait()
        pauses.append(process.ended())
        assert process.due == (pauses[-1] == 0)
    assert pauses == [0, 1, 2, 4]


def test_only_its_own_words_are_a_process_s_last(root: Path) -> None:
    log = root / "log"
    log.write_text("of the run before\n")
    process = Process("worker", [sys.executable, "-c", "print('of this run')"], log)
    process.start({})
    process.wait()
    assert process.log_tail() == "of this run"


def test_the_last_words_of_a_log_of_gigabytes_cost_little(root: Path) -> None:
    log = root / "log"
    log.touch()
    process = Process("worker", ["true"], log)
    process.start({})
    process.wait()
    with log.open("r+b") as file:
        file.truncate(1 << 34)
        file.seek(0, 2)
        file.write(b"\nthe end\n")
    assert process.log_tail(1) == "the end"


def test_a_process_that_ends_is_started_again(stack: Stack, wait_until: Callable[..., None]) -> None:
    (stack.store / ".logs").mkdir(parents=True)
    stack._spawn("clusterer-worker", ["timeit", "-n1", "-r1", "import time; time.sleep(600)"])
    [process] = stack.processes
    stopping, reports = threading.Event(), []
    watching = threading.Thread(target=stack.supervise, args=(lambda *told: reports.append(told), stopping.is_set))
    first = process.popen
    assert first is not None
    process.kill()
    watching.start()
    try:
        wait_until(lambda: process.popen is not first and process.alive)
    finally:
        stopping.set()
        watching.join()
        stack.stop()
    assert reports == [(process, 1.0)]
    assert first.returncode == -signal.SIGKILL


def test_a_worker_that_is_stopped_hears_of_it_once(stack: Stack, root: Path, wait_until: Callable[..., None]) -> None:
    (stack.store / ".logs").mkdir(parents=True)
    script = (
        "import signal, time; n = [];"
        "signal.signal(signal.SIGTERM, lambda *_: n.append(1));"
        f"open({str(root / 'up')!r}, 'w').close();"
        "exec('while not n: time.sleep(0.01)'); time.sleep(0.5);"
        f"open({str(root / 'heard')!r}, 'w').write(str(len(n))); exit()"
    )
    stack._spawn("clusterer-worker", ["timeit", "-n1", "-r1", script])
    wait_until((root / "up").exists)
    stack.stop()
    assert (root / "heard").read_text() == "1"
