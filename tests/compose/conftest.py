"""The real thing: images are built, containers started, and everything is asked through published ports."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
OVERRIDES = Path(__file__).parent
BUILD_S = 3600
START_S = 300.0
JOB_S = 900.0
COLOURS = {"red": (200, 40, 40), "green": (40, 170, 60), "blue": (40, 60, 200)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests to `make test-compose`: they build images for minutes."""
    asked = os.environ.get("SHOAL_REQUIRE_DOCKER") == "1" or "compose" in str(config.getoption("markexpr"))
    for item in items:
        if OVERRIDES not in item.path.parents:
            continue
        item.add_marker(pytest.mark.compose)
        item.add_marker(pytest.mark.timeout(BUILD_S))
        if not asked:
            item.add_marker(pytest.mark.skip(reason="`make test-compose` runs these"))


@pytest.fixture(scope="session")
def compose_command() -> list[str]:
    """``docker compose``, or the older ``docker-compose``."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and _succeeds([*command, "version"]) and _succeeds(["docker", "info"]):
            return command
    reason = "there is no Docker engine with compose"
    if os.environ.get("SHOAL_REQUIRE_DOCKER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """One compose project of its own name, ports and volumes."""

    def __init__(self, command: list[str], data: Path) -> None:
        self.name = f"shoaltest{uuid.uuid4().hex[:8]}"
        self.files = [ROOT / "docker-compose.yml", OVERRIDES / "quick.yml"]
        self.profiles: list[str] = []
        self._command = command
        self._clients: dict[str | None, tuple[httpx.Client, httpx.Client]] = {}
        self.extractor_port, self.clusterer_port = free_port(), free_port()
        self.env = {
            **os.environ,
            "SHOAL_DATA_DIR": str(data),
            "SHOAL_EXTRACTOR_PORT": str(self.extractor_port),
            "SHOAL_CLUSTERER_PORT": str(self.clusterer_port),
        }
        if not _succeeds(["docker", "buildx", "version"]):
            self.env["DOCKER_BUILDKIT"] = "0"

    def compose(self, *arguments: str, check: bool = True, **env: str) -> str:
        """What the compose command prints."""
        files = [word for file in self.files for word in ("-f", str(file))]
        profiles = [word for profile in self.profiles for word in ("--profile", profile)]
        command = [*self._command, "-p", self.name, "--project-directory", str(ROOT), *files, *profiles, *arguments]
        done = subprocess.run(
            command, env={**self.env, **env}, capture_output=True, text=True, check=False, timeout=BUILD_S
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout

    def container(self, service: str) -> str:
        """The id of a service's one container."""
        return self.compose("ps", "-q", service).split()[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows about a service's container."""
        facts: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return facts

    def docker(self, *arguments: str) -> str:
        """What the docker command prints."""
        return docker(*arguments)

    def http(self, token: str | None = None) -> tuple[httpx.Client, httpx.Client]:
        """Clients of both APIs, closed with the stack."""
        if token not in self._clients:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            ports = (self.extractor_port, self.clusterer_port)
            extractor, clusterer = (
                httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) for port in ports
            )
            self._clients[token] = extractor, clusterer
        return self._clients[token]

    def close(self) -> None:
        """Remove everything, the volumes too."""
        for http in (http for pair in self._clients.values() for http in pair):
            http.close()
        if os.environ.get("SHOAL_COMPOSE_LOGS"):
            Path(os.environ["SHOAL_COMPOSE_LOGS"]).write_text(self.compose("logs", "--no-color", check=False))
        self.compose("down", "-v", "--remove-orphans", check=False)

    def wait_ready(self) -> None:
        """Until both APIs are ready for jobs."""
        for http in self.http():
            self.wait(partial(self.get, http, "/readyz"), START_S, f"{http.base_url} ready")

    def wait(self, condition: Callable[[], object], deadline_s: float, what: str) -> None:
        """Return as soon as ``condition`` holds."""
        end = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"not within {deadline_s:.0f} s: {what}")
            time.sleep(0.5)

    def get(self, http: httpx.Client, path: str) -> dict[str, Any] | None:
        """What ``path`` answers; None while it does not answer 200."""
        try:
            answer = http.get(path)
        except httpx.TransportError:
            return None
        return dict(answer.json()) if answer.status_code == 200 else None

    def post(self, http: httpx.Client, path: str, body: dict[str, Any]) -> str:
        """The id of the job that ``body`` is accepted as."""
        answer = http.post(path, json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def ended(self, http: httpx.Client, job_id: str) -> dict[str, Any]:
        """The job once it has ended."""
        found: dict[str, Any] = {}

        def has_ended() -> bool:
            found.update(self.get(http, f"/jobs/{job_id}") or {})
            return found.get("state") in {"succeeded", "failed", "cancelled"}

        self.wait(has_ended, JOB_S, f"the end of job {job_id}, last seen as {found}")
        return found

    def embedded(self, http: httpx.Client, job_id: str) -> int:
        """How many images the job says it has embedded so far."""
        at = (self.get(http, f"/jobs/{job_id}") or {}).get("progress") or {}
        return int(at["done"]) if at.get("stage") == "embed" else 0


def docker(*arguments: str) -> str:
    """What the docker command prints."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that containers of another user can read: ``few``, ``many`` and ``lasting``, three colours each."""
    root = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    for folder, per_class in (("few", 12), ("many", 200), ("lasting", 600)):
        for label, colour in COLOURS.items():
            (root / folder / label).mkdir(parents=True)
            for number in range(per_class):
                shade = tuple(min(255, max(0, value + draw.randint(-30, 30))) for value in colour)
                Image.new("RGB", (64, 64), shade).save(root / folder / label / f"{number:03}.png")
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    return root


@pytest.fixture(scope="session")
def stack(compose_command: list[str], data: Path) -> Iterator[Stack]:
    """The services as `docker-compose up -d --build` brings them up; torn down with all their volumes."""
    stack = Stack(compose_command, data)
    try:
        stack.compose("up", "-d", "--build")
        stack.wait_ready()
        yield stack
    finally:
        stack.close()
