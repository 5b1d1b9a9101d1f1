"""The commands as people type them, and the server that a worker starts for itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from extractor.__main__ import main
from extractor.tf_serving.local import LocalServer
from grpc_health.v1 import health_pb2, health_pb2_grpc


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    monkeypatch.setenv("SHOAL_MODELS", str(path))
    return path


def test_import_says_what_came_of_it(
    builders: ModuleType, tmp_path: Path, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builders.bigbigan_hub(tmp_path / "source", size=32)
    status = main(["import-tf", "mine", str(tmp_path / "source"), "--output", "z_mean", "--mean", "0", "0", "0"])
    out = capfd.readouterr().out
    assert status == 0, out
    assert "z_mean of encode (tf1-hub), 8-d, 32 px uint8" in out
    assert (models / "mine" / "1" / "saved_model.pb").is_file()


def test_import_says_what_is_wrong_in_one_line(
    builders: ModuleType, tmp_path: Path, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builders.bigbigan_hub(tmp_path / "source", size=32)
    assert main(["import-tf", "mine", str(tmp_path / "source"), "--signature", "embed"]) == 1
    assert capfd.readouterr().err == "The model has no signature 'embed'. Its signatures: default, encode, generate.\n"


def test_a_worker_without_an_address_starts_its_own_server_keeps_it_up_and_ends_it(
    models: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.delenv("TF_SERVING_URL", raising=False)
    monkeypatch.delenv("TF_SERVING_GONE_S", raising=False)
    with LocalServer(models) as server:
        url = os.environ["TF_SERVING_URL"]
        assert server.pid is None
        server.ensure()
        wait_until(lambda: server.pid is not None)
        pid = server.pid
        server.ensure()
        assert server.pid == pid
        with grpc.insecure_channel(url) as channel:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=240, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        # Nobody asks again: the job that was under way waits for it.
        wait_until(lambda: server.pid not in (None, pid))
        again = server.pid
    assert not Path(f"/proc/{again}").exists()
    assert "TF_SERVING_URL" not in os.environ


def test_a_server_that_cannot_start_is_tried_once_for_each_job(
    models: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    starts = []

    def broken(*_: object, **__: object) -> subprocess.Popen[bytes]:
        starts.append(subprocess.Popen(["false"]))
        return starts[-1]

    with LocalServer(models) as server:
        monkeypatch.setattr(server, "_start", broken)
        server.ensure()
        wait_until(lambda: starts and not server._requested.is_set())
        assert len(starts) == 1
        server.ensure()
        wait_until(lambda: len(starts) == 2)
