"""The wheel holds what it needs, installs where there is no compiler, and clusters there with its compiled kernel."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.conftest import WaitUntil

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
DATA = {
    "clusterer/results/report/page.html.j2",
    "extractor/models/models.toml",
    "extractor/models/open_clip_models.json",
    "extractor/models/timm_models.json",
    "shoal/jobs/lua/claim.lua",
    "shoal/jobs/lua/prelude.lua",
    "shoal/paper.toml",
    "shoal/py.typed",
    "shoal/store/FORMAT.md",
    "shoal/web/static/docs.js",
    "shoal/web/static/swagger-ui/LICENSE",
    "shoal/web/static/swagger-ui/swagger-ui-bundle.js",
    "shoal/web/static/swagger-ui/swagger-ui.css",
}
PAGES = ROOT / "services/clusterer/web/static"
DATA |= {path.relative_to(ROOT / "services").as_posix() for path in PAGES.rglob("*") if path.is_file()}
KERNELS = {f"clusterer/native/_kernel_{variant}.so" for variant in ("amx", "avx512", "avxvnni", "avx2")}
CLUSTER = """
import sys
from pathlib import Path

import clusterer, numpy as np
from clusterer import pipeline
from clusterer.native.library import available
from shoal.importer import import_embeddings
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store

assert Path(clusterer.__file__).is_relative_to(sys.prefix), clusterer.__file__
settings = Settings()
store = Store(settings.store)
planted = np.repeat(np.arange(4), 100)
vectors = np.eye(32, dtype=np.float32)[planted] + np.random.default_rng(0).normal(0, 0.05, (400, 32))
np.save("vectors.npy", vectors.astype(np.float32))
embeddings = import_embeddings(store, Path("vectors.npy"), name="planted")
request = {"embeddings": embeddings, "clusters": 4, "pca": None, "seed": 0}
if available():
    request["kmeans"] = {"engine": "fast"}
result = pipeline.run(JobContext.local(request, kind="cluster"), settings)
found = store.clustering(result["clustering"]).assignments()
groups = {tuple(np.flatnonzero(np.asarray(found.column("cluster")) == cluster)) for cluster in range(4)}
assert groups == {tuple(range(100 * group, 100 * group + 100)) for group in range(4)}
print("kernel:", *available()[:1])
"""


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as `make dist` builds it: from the source distribution."""
    if not UV.exists():
        pytest.skip("uv is not installed beside this Python: make .venv/dev")
    out = tmp_path_factory.mktemp("dist")
    run([UV, "build", "--quiet", "--offline", "--no-build-isolation", "--python", sys.executable, "--out-dir", out])
    assert len(list(out.glob("shoal-*.tar.gz"))) == 1
    [built] = out.glob("shoal-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of an environment that holds the wheel and its dependencies, and no compiler."""
    folder = tmp_path_factory.mktemp("empty") / "env"
    run([UV, "venv", "--quiet", "--offline", "--python", sys.executable, folder])
    variables = {
        **{name: value for name, value in os.environ.items() if name in {"HOME", "UV_CACHE_DIR", "XDG_CACHE_HOME"}},
        "PATH": str(folder / "bin"),
        "VIRTUAL_ENV": str(folder),
    }
    for compiler in ("cc", "gcc", "c++", "g++", "clang", "clang++"):
        assert shutil.which(compiler, path=variables["PATH"]) is None
    options: list[str | Path] = ["--quiet", "--offline", "--constraints", ROOT / "constraints.txt"]
    command: list[str | Path] = [UV, "pip", "install", *options, f"{wheel}[service,cluster]"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode and "network was disabled" in done.stderr:
        pytest.skip(f"uv's cache lacks a dependency of the wheel: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return variables


def test_the_wheel_holds_its_data_and_the_compiled_kernel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert DATA - names == set()
    missing = sorted(path for path in _sources() if path not in names)
    assert missing == []
    if shutil.which("g++") or shutil.which("clang++") or os.environ.get("CXX"):
        assert names & KERNELS
        assert "extractor/native/_kernel_resize.so" in names
        assert "-py3-none-linux_" in wheel.name


def _sources() -> set[str]:
    """Every file of the packages, by its name in the wheel, without what is compiled."""
    packages = (ROOT / "shared" / "shoal", ROOT / "services" / "extractor", ROOT / "services" / "clusterer")
    files = (path for package in packages for path in package.rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix().partition("/")[2]
        for path in files
        if path.suffix not in {".pyc", ".so", ".tmp"}
    }


def test_the_command_line_runs_where_nothing_else_is_installed(installed: dict[str, str], tmp_path: Path) -> None:
    shoal = Path(installed["VIRTUAL_ENV"]) / "bin" / "shoal"
    assert run([shoal, "--version"], installed, tmp_path).startswith("shoal 0.")
    assert "cluster" in run([shoal, "--help"], installed, tmp_path)


def test_the_wheel_clusters_without_a_compiler(installed: dict[str, str], tmp_path: Path) -> None:
    python = Path(installed["VIRTUAL_ENV"]) / "bin" / "python"
    environment = {**installed, "SHOAL_STORE": str(tmp_path / "store")}
    out = run([python, "-I", "-c", CLUSTER], environment, tmp_path)
    kernel = out.splitlines()[-1]
    from clusterer.native.library import available

    assert kernel == " ".join(["kernel:", *available()[:1]])


def test_the_api_of_the_wheel_serves_its_description(
    installed: dict[str, str], tmp_path: Path, wait_until: WaitUntil
) -> None:
    python = Path(installed["VIRTUAL_ENV"]) / "bin" / "python"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**installed, "SHOAL_STORE": str(tmp_path / "store"), "REDIS_URL": "redis://127.0.0.1:1"}
    command: list[str | Path] = [python, "-I", "-m", "clusterer", "api", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    paths: list[str] = []

    def described() -> bool:
        assert server.poll() is None, (tmp_path / "log").read_text()
        with suppress(httpx.TransportError):
            paths[:] = httpx.get(f"http://127.0.0.1:{port}/openapi.json").json()["paths"]
        return bool(paths)

    try:
        wait_until(described, what="description of the API")
    finally:
        server.kill()
        server.wait()
    assert {"/cluster", "/sweep", "/clusterings", "/jobs"} <= set(paths)
