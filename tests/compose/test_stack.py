"""The main job through published ports, whatever is killed on the way.

One stack serves all tests of this file; each leaves it running.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LITE0 = "tf_efficientnet_lite0"
LASTING = 1800
"""Images of an extraction that is still running when several containers have been killed, one after another."""
LONG = {"images": {"path": "lasting"}, "model": LITE0, "engine": "eager", "shard_rows": 50, "batch_size": 16}
APIS = ("extractor-api", "clusterer-api")
WORKERS = ("extractor-torch", "clusterer-worker")
HOST = "extractor-torch-host"


def test_images_become_groups(stack: Any) -> None:
    extractor, clusterer = stack.http()
    job = stack.ended(extractor, stack.post(extractor, "/extract", {"images": {"path": "few"}, "model": LITE0}))
    assert job["state"] == "succeeded", job
    assert (job["result"]["rows"], job["result"]["failed"], job["result"]["dim"]) == (36, 0, 1280)
    body = {"embeddings": job["result"]["embeddings"], "over": 1, "seeds": [0]}
    job = stack.ended(clusterer, stack.post(clusterer, "/cluster", body))
    assert job["state"] == "succeeded", job
    clustering = job["result"]["clustering"]
    assert (job["result"]["rows"], job["result"]["k"]) == (36, 3)
    metrics = clusterer.get(f"/clusterings/{clustering}/metrics").json()
    assert job["result"]["metrics"]["accuracy"]["hungarian"]["scored"] > 0.9, metrics
    report = clusterer.get(f"/clusterings/{clustering}/report")
    assert (report.status_code, report.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert clusterer.get(f"/clusterings/{clustering}/contact-sheet").content.startswith(b"\x89PNG")


def test_a_new_image_is_answered_by_a_model_that_stays_loaded(stack: Any, data: Path) -> None:
    extractor, _ = stack.http()
    image = (data / "few/red/000.png").read_bytes()
    text = "data:image/png;base64," + base64.b64encode(image).decode()

    def answered() -> bool:
        return bool(extractor.post(f"/predictions/{LITE0}", content=image).status_code == 200)

    stack.wait(answered, 300, "an answer of the model host")
    body = {"model": LITE0, "input": [text, text]}
    rows = extractor.post("/v1/embeddings", json=body).json()["data"]
    assert [len(row["embedding"]) for row in rows] == [1280, 1280]
    prediction = extractor.post(f"/predictions/{LITE0}", content=image).json()
    assert prediction == rows[0]["embedding"] == rows[1]["embedding"]
    assert extractor.get("/readyz").json()["hosts"]["torch"] == "ok"
    stack.wait(lambda: extractor.get(f"/models/{LITE0}").json()["loaded"], 30, "the host's word")

    stack.docker("kill", stack.container(HOST))
    assert extractor.post("/v1/embeddings", json=body).json()["code"] == "model_host_down"
    stack.docker("start", stack.container(HOST))
    stack.wait(answered, 300, "an answer of the model host that was started again")


def test_a_job_survives_the_death_of_every_container(stack: Any) -> None:
    extractor, clusterer = stack.http()
    job_id = stack.post(extractor, "/extract", LONG)

    killed: list[datetime] = []

    def kill_after(rows: int, *services: str) -> None:
        stack.wait(lambda: stack.embedded(extractor, job_id) >= rows, 600, f"{rows} images embedded")
        containers = [stack.container(service) for service in services]
        killed.append(datetime.now(UTC))
        stack.docker("kill", *containers)
        stack.docker("start", *containers)

    kill_after(60, "redis")
    kill_after(120, "extractor-torch")
    kill_after(200, *APIS)
    job = stack.ended(extractor, job_id)
    assert job["state"] == "succeeded", job
    assert (job["result"]["rows"], job["result"]["failed"]) == (LASTING, 0)
    assert job["attempt"] == 2
    assert max(killed) < datetime.fromisoformat(job["finished_at"]), "something was killed too late to matter"
    embeddings = job["result"]["embeddings"]
    assert stack.get(extractor, f"/embeddings/{embeddings}")["rows"] == LASTING
    verified = stack.compose("exec", "-T", "extractor-torch", "shoal", "verify", embeddings)
    assert verified.strip() == f"{embeddings}: ok"

    stack.wait_ready()
    job_id = stack.post(clusterer, "/cluster", {"embeddings": embeddings, "clusters": 3, "seeds": [0]})
    stack.docker("kill", stack.container("clusterer-worker"))
    stack.docker("start", stack.container("clusterer-worker"))
    job = stack.ended(clusterer, job_id)
    assert (job["state"], (job["result"] or {}).get("rows")) == ("succeeded", LASTING), job
    assignments = clusterer.get(f"/clusterings/{job['result']['clustering']}/assignments", params={"format": "jsonl"})
    rows = [json.loads(line) for line in assignments.text.splitlines()]
    assert len({row["image_id"] for row in rows}) == len(rows) == LASTING


def test_a_stopped_worker_hands_its_job_back(stack: Any) -> None:
    extractor, _ = stack.http()
    body = {**LONG, "name": "handed-back", "reuse": None}
    job_id = stack.post(extractor, "/extract", body)
    stack.wait(lambda: stack.embedded(extractor, job_id) >= 16, 600, "the job's first images")
    stack.compose("stop", "extractor-torch")
    exit_code = stack.inspect("extractor-torch")["State"]["ExitCode"]
    job = stack.get(extractor, f"/jobs/{job_id}")
    assert (job["state"], exit_code) == ("queued", 0), job
    stack.compose("start", "extractor-torch")
    job = stack.ended(extractor, job_id)
    # Being stopped is not the job's fault: it counts as no attempt.
    assert (job["state"], job["attempt"], job["result"]["rows"]) == ("succeeded", 1, LASTING), job


def test_containers_can_do_nothing_that_they_need_not(stack: Any) -> None:
    for service in ("redis", *APIS, *WORKERS, HOST):
        facts = stack.inspect(service)
        host = facts["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert facts["State"]["Health"]["Status"] == "healthy", service
        user = stack.compose("exec", "-T", service, "id", "-u").strip()
        assert user == "10001" if service != "redis" else user != "0", service
    for service in (*APIS, *WORKERS):
        mounts = {mount["Destination"]: mount["RW"] for mount in stack.inspect(service)["Mounts"]}
        assert (mounts["/data"], mounts["/store"]) == (False, True)
    mounts = {mount["Destination"]: mount["RW"] for mount in stack.inspect(HOST)["Mounts"]}
    assert mounts == {"/models": True, "/run/shoal/online": True}
    assert not stack.inspect("redis")["NetworkSettings"]["Ports"].get("6379/tcp")
    for service in APIS:
        for bindings in stack.inspect(service)["NetworkSettings"]["Ports"].values():
            assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}


def test_the_images_hold_what_their_process_needs_and_no_more(stack: Any) -> None:
    look = (
        "import importlib.util as u; print([n for n in ('torch', 'tensorflow', 'faiss', 'fastapi') if u.find_spec(n)])"
    )
    holds = {
        service: stack.compose("exec", "-T", service, "python", "-c", look).strip() for service in (*APIS, *WORKERS)
    }
    assert holds == {
        "extractor-api": "['fastapi']",
        "clusterer-api": "['fastapi']",
        "extractor-torch": "['torch']",
        "clusterer-worker": "['faiss']",
    }
    compiled = stack.compose("exec", "-T", "clusterer-worker", "sh", "-c", "ls /opt/shoal/clusterer/native/*.so")
    assert len(compiled.split()) == 4, "the k-means kernel, once per instruction set"
    for service in (*APIS, *WORKERS):
        tools = "for t in gcc g++ cc c++ make pip uv; do command -v $t; done; true"
        found = stack.compose("exec", "-T", service, "sh", "-c", tools).split()
        # The public base image brings pip along; nothing of ours may bring a compiler.
        assert not [tool for tool in found if not tool.endswith("pip")], service


def test_no_secret_stands_where_others_can_read_it(stack: Any) -> None:
    password = stack.compose("exec", "-T", "redis", "cat", "/run/shoal/queue/password").strip()
    assert len(password) == 64
    for service in ("redis", *APIS, *WORKERS):
        assert password not in json.dumps(stack.inspect(service)), service
        processes = (
            "for p in /proc/[0-9]*; do cat $p/cmdline 2>/dev/null; tr '\\0' '\\n' <$p/environ 2>/dev/null; done; true"
        )
        assert password not in stack.compose("exec", "-T", service, "sh", "-c", processes), service
    assert password not in stack.compose("logs", "--no-color")


def test_redis_lets_nobody_in_without_the_password(stack: Any) -> None:
    said = stack.compose("exec", "-T", "redis", "redis-cli", "ping")
    assert "NOAUTH" in said
    for name, value in {"appendonly": "yes", "maxmemory-policy": "noeviction"}.items():
        ask = f'REDISCLI_AUTH="$(cat /run/shoal/queue/password)" redis-cli config get {name}'
        assert stack.compose("exec", "-T", "redis", "sh", "-c", ask).split() == [name, value]


def test_logs_are_json_and_name_the_job(stack: Any) -> None:
    extractor, _ = stack.http()
    job_id = stack.post(extractor, "/extract", {"images": {"path": "few"}, "model": "raw_pixels"})
    assert stack.ended(extractor, job_id)["state"] == "succeeded"
    for service in ("extractor-api", "extractor-torch"):
        log = stack.docker("logs", stack.container(service)) + _errors(stack, service)
        lines = [json.loads(line) for line in log.splitlines() if line.strip()]
        assert [line for line in lines if line.get("job") == job_id], service


def _errors(stack: Any, service: str) -> str:
    return "\n".join(
        line.split("|", 1)[1].strip()
        for line in stack.compose("logs", "--no-color", service).splitlines()
        if "|" in line
    )


def test_workers_and_apis_answer_a_scrape(stack: Any) -> None:
    extractor, _ = stack.http()
    assert "shoal_queue_up 1.0" in extractor.get("/metrics").text
    for service, metric in {
        "extractor-torch": 'shoal_extract_images_total{model="raw_pixels",outcome="embedded"}',
        HOST: "shoal_online_models",
    }.items():
        scrape = f"import urllib.request as u; print(u.urlopen('http://{service}:9100/metrics').read().decode())"
        assert metric in stack.compose("exec", "-T", "clusterer-worker", "python", "-c", scrape)


def test_published_to_others_the_apis_need_a_key(stack: Any) -> None:
    open_to_all = {"SHOAL_AUTH": "required"}
    stack.compose("up", "-d", "--no-deps", *APIS, **open_to_all)
    try:
        stack.wait(
            lambda: "shoal keys create" in stack.compose("logs", "--no-color", "extractor-api"), 120, "the refusal"
        )
        create = ("run", "--rm", "-T", "--no-deps", "--entrypoint", "shoal", "extractor-api", "keys", "create")
        token = stack.compose(*create, "--name", "ops", "--scope", "read", **open_to_all).strip().splitlines()[-1]
        stack.wait_ready()
        for bare, keyed in zip(stack.http(), stack.http(token), strict=True):
            assert bare.get("/jobs").status_code == 401
            assert bare.get("/healthz").status_code == 200
            assert keyed.get("/jobs").status_code == 200
            assert keyed.delete("/jobs/none").status_code == 403
        token_of_prometheus = stack.compose("exec", "-T", "extractor-api", "cat", "/run/shoal/metrics/token").strip()
        scraping, _ = stack.http(token_of_prometheus)
        assert (scraping.get("/metrics").status_code, scraping.get("/jobs").status_code) == (200, 401)
    finally:
        stack.compose("up", "-d", "--no-deps", *APIS)
        stack.wait_ready()
