"""Alert rules and dashboard ask for metrics that exist, from targets that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from extractor.online.metrics import HostMetrics
from fastapi.testclient import TestClient
from prometheus_client import generate_latest
from shoal.jobs.claims import Claim
from shoal.jobs.protocol import Counted, Progressed
from shoal.jobs.queue import JobQueue
from shoal.jobs.service import WorkerMetrics
from shoal.schemas import Progress
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import create_app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
SCRAPES = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
BOARD = json.loads((DEPLOY / "grafana/dashboards/shoal.json").read_text())
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
PANELS = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in BOARD["panels"]}


@pytest.fixture
def metrics(queue: JobQueue, tmp_path: Path) -> dict[str, set[str]]:
    """The labels of every sample that an API and a worker export, by its name."""
    app = create_app(
        service="test", routers=[], kinds=["k"], settings=Settings(store=tmp_path), queue=queue, store=Store(tmp_path)
    )
    queue.submit("extract:torch", {"model": "raw_pixels"})
    queue.submit("extract:torch", {"model": "raw_pixels"})
    queue.beat("worker", ["extract:torch"])
    claim = queue.claim(["extract:torch"], "worker")
    assert claim is not None
    with TestClient(app) as client:
        client.get("/jobs")
        exported = client.get("/metrics").text + _worked(claim) + _answered()
    found: dict[str, set[str]] = {}
    for line in exported.splitlines():
        match = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? \S+", line)
        if match:
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def _worked(claim: Claim) -> str:
    worker = WorkerMetrics()
    worker.started(claim)
    worker.received(
        claim,
        [Progressed(Progress(stage="embed", detail={"busy": {"network": 1.0}})), Counted({"embedded": 3, "failed": 1})],
    )
    worker.ended(claim, "succeed")
    return generate_latest(worker.registry).decode()


def _answered() -> str:
    host = HostMetrics()
    host.requests.labels("raw_pixels", "ok").inc()
    host.of("raw_pixels")
    return generate_latest(host.registry).decode()


def _asks(expression: str, metrics: dict[str, set[str]]) -> None:
    names = set(re.findall(r"\bshoal_[a-z_]+", expression))
    assert names <= set(metrics), f"{expression}: there is no {names - set(metrics)}"
    labels = set().union(*(metrics[name] for name in names)) | {"instance", "job"}
    matched = {
        label for part in re.findall(r"\{([^}]*)\}", _bare(expression)) for label in re.findall(r"(\w+)\s*[=!]", part)
    }
    grouped = {
        label.strip() for part in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in part.split(",")
    }
    assert matched | grouped <= labels, f"{expression}: there is no label {(matched | grouped) - labels}"


def _bare(expression: str) -> str:
    """Without what stands in quotes, where braces mean something else."""
    return re.sub(r'"[^"]*"', '""', expression)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_for_what_there_is_and_says_what_to_do(alert: str, metrics: dict[str, set[str]]) -> None:
    rule = ALERTS[alert]
    _asks(rule["expr"], metrics)
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["action"]


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_asks_for_what_there_is(panel: str, metrics: dict[str, set[str]]) -> None:
    for expression in PANELS[panel]:
        _asks(expression, metrics)


def test_names_follow_prometheus_conventions(metrics: dict[str, set[str]]) -> None:
    ours = {name for name in metrics if name.startswith("shoal_")}
    assert {
        "shoal_extract_images_total",
        "shoal_job_duration_seconds_bucket",
        "shoal_queue_depth",
        "shoal_jobs",
        "shoal_worker_last_heartbeat_seconds",
        "shoal_build_info",
    } <= ours
    assert metrics["shoal_extract_images_total"] == {"model", "outcome"}
    assert metrics["shoal_job_duration_seconds_bucket"] == {"kind", "stage", "le"}


def test_what_is_scraped_is_a_service() -> None:
    scraped: set[str] = set()
    for job in SCRAPES["scrape_configs"]:
        for static in job.get("static_configs", ()):
            scraped.update(target.partition(":")[0] for target in static["targets"])
        for names in job.get("dns_sd_configs", ()):
            scraped.update(names["names"])
    assert scraped - {"localhost"} <= set(SERVICES)
    assert {name for name in SERVICES if name.startswith(("extractor", "clusterer"))} <= scraped


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", DEPLOY / "prometheus/alerts.yml"),
        ("check", "config", "--syntax-only", DEPLOY / "prometheus/prometheus.yml"),
        ("test", "rules", Path(__file__).parent / "promtool/alerts.yml"),
    ],
    ids=lambda command: " ".join(map(str, command[:2])),
)
def test_the_rules_are_valid_and_fire_when_they_should(command: tuple[str | Path, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; the tests above read the rules all the same")
    done = subprocess.run([promtool, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_s_source_is_provisioned() -> None:
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    assert {panel["datasource"]["uid"] for panel in BOARD["panels"]} == uids
    dashboards: Any = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/shoal.yml").read_text())
    mounted = dashboards["providers"][0]["options"]["path"]
    assert any(volume.split(":")[1] == mounted for volume in SERVICES["grafana"]["volumes"])
