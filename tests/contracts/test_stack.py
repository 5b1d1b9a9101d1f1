"""The main job through the front door: `shoal up`, plain HTTP, the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shoal import Client
from shoal.errors import ImageUnrecognised
from shoal.store import Store

from tests.contracts.conftest import CLASSES, PER_CLASS, START_S, Running, http, is_ready, paint, start

ROWS = len(CLASSES) * PER_CLASS


def finished(url: str, wait_until: Callable[..., None]) -> dict[str, Any]:
    """The job at ``url`` once it has ended."""
    wait_until(lambda: http.get(url).json()["finished_at"], deadline_s=240, what=url)
    job: dict[str, Any] = http.get(url).json()
    return job


def test_the_start_says_where_images_are_looked_for_and_keeps_the_store_out_of_version_control(
    stack: Running, wait_until: Callable[..., None]
) -> None:
    wait_until(lambda: "ready; Ctrl-C" in (stack.root / "up.log").read_text(), deadline_s=30, what="the last line")
    said = (stack.root / "up.log").read_text()
    assert f"images     below {stack.root / 'data'}\n" in said
    assert f"store      {stack.root / 'store'}\n" in said
    assert (stack.root / "store" / ".gitignore").read_text() == "*\n"
    assert not (stack.root / "data" / ".gitignore").exists()


def test_plain_http_does_the_whole_job(stack: Running, wait_until: Callable[..., None]) -> None:
    body: dict[str, Any] = {"images": {"path": "colours"}, "model": "tf_efficientnet_lite0"}
    answer = http.post(f"{stack.extractor}/extract", json=body)
    assert answer.status_code == 202
    assert answer.json()["kind"] == "extract:torch"
    job = finished(stack.extractor + answer.headers["Location"], wait_until)
    assert job["state"] == "succeeded", job["error"]
    assert (job["result"]["rows"], job["result"]["failed"], job["result"]["dim"]) == (ROWS, 0, 1280)

    answer = http.post(f"{stack.clusterer}/cluster", json={"embeddings": job["result"]["embeddings"], "over": 1.0})
    job = finished(stack.clusterer + answer.headers["Location"], wait_until)
    assert job["state"] == "succeeded", job["error"]
    clustering = f"{stack.clusterer}/clusterings/{job['result']['clustering']}"
    facts = http.get(clustering).json()
    assert (facts["n"], facts["dim"], facts["k"], facts["seeds"]) == (ROWS, 1280, 3, [0, 1, 2])
    [scored] = http.get(f"{clustering}/metrics").json()["scored"].values()
    assert scored["mean"]["accuracy"]["hungarian"]["train"] == pytest.approx(1.0)
    assert scored["mean"]["ari"] == pytest.approx(1.0)
    rows = http.get(f"{clustering}/assignments", params={"format": "csv"}).text.splitlines()
    assert len(rows) == ROWS + 1
    assert "text/html" in http.get(f"{clustering}/report").headers["content-type"]


def test_a_new_image_gets_the_embedding_that_a_job_gives_it(
    stack: Running, client: Client, wait_until: Callable[..., None]
) -> None:
    model = "tf_efficientnet_lite0"
    embeddings = Store(stack.root / "store").embeddings(stack.cli("extract", "colours", "--model", model))
    row = 7
    image = stack.root / "data" / "colours" / embeddings.metadata(["image_path"])["image_path"][row].as_py()
    url = f"{stack.extractor}/predictions/{model}"
    # Until the host has imported its library.
    wait_until(lambda: http.post(url, content=image.read_bytes()).status_code == 200, what="an answer of the host")
    answer = http.post(url, content=image.read_bytes())
    stored = embeddings.take(np.array([row]))
    np.testing.assert_array_equal(np.array([answer.json()], np.float32), stored)
    assert answer.headers["X-Shoal-Model-Digest"] == embeddings.plan.model.digest
    np.testing.assert_array_equal(client.embed([image], model=model), stored)
    assert http.get(f"{stack.extractor}/readyz").json()["hosts"]["torch"] == "ok"


def test_a_new_image_gets_the_cluster_that_a_job_gives_it(
    stack: Running, client: Client, wait_until: Callable[..., None]
) -> None:
    embeddings = stack.cli("extract", "colours", "--model", "tf_efficientnet_lite0")
    store = Store(stack.root / "store")
    clustering = stack.cli("cluster", embeddings, "-k", "4", "--pca", "6")
    job = store.clustering(clustering).assignments(columns=["cluster", "distance", "margin"]).slice(5, 20).to_pylist()
    paths = store.embeddings(embeddings).metadata(["image_path"])["image_path"].slice(5, 20).to_pylist()
    wait_until(lambda: http.get(f"{stack.extractor}/ping").status_code == 200, what="a model host")
    found = client.assign(clustering, images=[stack.root / "data" / "colours" / path for path in paths])
    assert [{"cluster": row.cluster, "distance": row.distance, "margin": row.margin} for row in found] == job
    assert set(found.label) <= set(CLASSES)


def test_a_model_host_that_is_killed_is_there_again(stack: Running, wait_until: Callable[..., None]) -> None:
    def answers() -> bool:
        return http.get(f"{stack.extractor}/ping").status_code == 200

    wait_until(answers, what="a model host")
    [host] = [pid for pid, command in _commands_of(stack.root).items() if "extractor host --backend torch" in command]
    os.kill(host, signal.SIGKILL)
    wait_until(lambda: "extractor-torch-host exited" in (stack.root / "up.log").read_text(), what="the report")
    image = (stack.root / "data/colours/red/000.png").read_bytes()
    url = f"{stack.extractor}/predictions/raw_pixels"
    wait_until(lambda: http.post(url, content=image).status_code == 200, what="an answer of the new host")


def test_a_running_job_is_stopped_within_ten_seconds(stack: Running, wait_until: Callable[..., None]) -> None:
    paint(stack.root / "data" / "many", per_class=1000)
    body = {"images": {"path": "many"}, "model": "tf_efficientnet_lite0", "shard_rows": 64}
    url = stack.extractor + http.post(f"{stack.extractor}/extract", json=body).headers["Location"]
    wait_until(lambda: (http.get(url).json()["progress"] or {}).get("stage") == "embed", deadline_s=120, what="embed")
    asked = time.monotonic()
    assert http.delete(url).json()["cancel_requested"]
    wait_until(lambda: http.get(url).json()["state"] == "cancelled", deadline_s=20, what="cancelled")
    assert time.monotonic() - asked < 10


@pytest.mark.parametrize(
    ("service", "path", "body", "status", "code"),
    [
        ("extractor", "/extract", {"images": {"path": "colours"}, "model": "resnet9000"}, 422, "unknown_model"),
        ("extractor", "/extract", {"images": {"path": "nowhere"}, "model": "raw_pixels"}, 422, "path_not_found"),
        ("extractor", "/extract", {"images": {"path": "../colours"}, "model": "raw_pixels"}, 422, "path_outside_root"),
        ("extractor", "/extract", {"images": {"path": "/etc"}, "model": "raw_pixels"}, 422, "path_outside_root"),
        ("extractor", "/extract", {"images": {"path": "empty"}, "model": "raw_pixels"}, 422, "no_images"),
        ("clusterer", "/cluster", {"embeddings": "nothing-1", "clusters": 3}, 404, "embeddings_not_found"),
        ("clusterer", "/cluster", {"embeddings": "x", "clusters": 3, "over": 1.0}, 422, "invalid_value"),
    ],
)
def test_bad_requests_are_refused_at_once(
    stack: Running, service: str, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    (stack.root / "data" / "empty").mkdir(exist_ok=True)
    answer = http.post(getattr(stack, service) + path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_the_command_line_does_the_whole_job(stack: Running, client: Client) -> None:
    embeddings = stack.cli("extract", "colours", "--model", "raw_pixels")
    assert client.embeddings(embeddings)["rows"] == ROWS
    clustering = stack.cli("cluster", embeddings, "--over", "1", "--pca", "8", "--seed", "5")
    assert client.clustering(clustering)["seeds"] == [5]
    shown = stack.cli("show", clustering)
    assert "NMI (arithmetic mean)" in shown
    assert "chance" in shown
    assert embeddings in stack.cli("jobs", "--kind", "extract:torch")
    assert "tf_efficientnet_lite0" in stack.cli("models", "list")
    assert stack.cli("verify", embeddings) == f"{embeddings}: ok"
    assert "ready" in stack.cli("doctor")


def test_new_images_are_embedded_and_find_their_group(stack: Running, client: Client) -> None:
    embeddings = stack.cli("extract", "colours", "--model", "raw_pixels")
    clustering = stack.cli("cluster", embeddings, "-k", "3")
    rows = {row["image_path"]: row["cluster"] for row in client.assignments(clustering)}
    files = [stack.root / "data" / "colours" / path for path in rows]
    expected = list(rows.values())
    vectors = client.embed(files, model="raw_pixels", batch=20)
    assert client.assign(clustering, vectors=vectors).cluster.tolist() == expected
    pictures = [np.asarray(Image.open(file)) for file in files]
    found = client.assign(clustering, images=pictures)
    assert found.cluster.tolist() == expected
    assert found.is_outlier is not None
    [printed] = json.loads(stack.cli("assign", clustering, str(files[0]), "--json"))
    assert printed["cluster"] == expected[0]
    assert printed["distance"] == pytest.approx(found[0].distance)
    (stack.root / "no.png").write_bytes(b"no image")
    with pytest.raises(ImageUnrecognised, match=r"^images\[1\] \(.*no\.png\): The content is not an image"):
        client.embed([files[0], stack.root / "no.png"], model="raw_pixels")


def test_what_the_store_holds_is_listed_and_shown_without_services(stack: Running) -> None:
    embeddings = stack.cli("extract", str(stack.root / "data" / "colours"), "--model", "raw_pixels")
    assert embeddings == stack.cli("extract", "colours/", "--model", "raw_pixels")
    clustering = stack.cli("cluster", embeddings, "-k", "3")
    sweep = stack.cli("sweep", embeddings, "-k", "2,3", "--no-wait")
    stack.cli("watch", sweep)
    alone = replace(stack, extractor="http://127.0.0.1:9", clusterer="http://127.0.0.1:9")
    listed = {line.split()[0]: line for line in alone.cli("ls").splitlines()}
    assert f"{ROWS} rows" in listed[embeddings]
    assert "k = 3" in listed[clustering]
    assert "2 of 2 points" in listed[f"s-{sweep}"]
    assert "NMI (arithmetic mean)" in alone.cli("show", clustering)
    assert "2 of 2 points" in alone.cli("show", f"s-{sweep}")
    assert json.loads(alone.cli("show", embeddings))["rows"] == ROWS
    with pytest.raises(AssertionError, match=r"'c-nothing' is not in the store .*; `shoal ls`"):
        alone.cli("show", "c-nothing")


def test_what_a_job_uses_is_not_removed_and_everything_else_is(stack: Running, wait_until: Callable[..., None]) -> None:
    paint(stack.root / "data" / "wanted", per_class=20)
    embeddings = stack.cli("extract", "wanted", "--model", "raw_pixels")
    clustering = stack.cli("cluster", embeddings, "-k", "2")
    job = stack.cli("sweep", embeddings, "-k", ",".join(map(str, range(2, 60))), "--no-wait")
    with pytest.raises(AssertionError, match=rf"{job} .*Nothing was removed"):
        stack.cli("rm", clustering, embeddings)
    stack.cli("cancel", job)
    wait_until(lambda: http.get(f"{stack.clusterer}/jobs/{job}").json()["finished_at"], deadline_s=60, what="its end")
    with pytest.raises(AssertionError, match=r"'c-no' is not in the store .*Nothing was removed"):
        stack.cli("rm", embeddings, "c-no")
    stack.cli("rm", embeddings, clustering)
    left = stack.cli("ls")
    assert embeddings not in left
    assert clustering not in left


def test_a_folder_that_is_not_found_is_said_with_the_root_and_what_to_do(stack: Running, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as raised:
        stack.cli("extract", "nowhere", "--model", "raw_pixels")
    assert f"data root is {stack.root / 'data'}" in str(raised.value)
    with pytest.raises(AssertionError, match="start the service with `shoal up --data") as raised:
        stack.cli("extract", str(tmp_path), "--model", "raw_pixels")
    assert "`images.path`" not in str(raised.value)


def test_run_on_services_of_another_machine_sends_the_folder(stack: Running, client: Client, tmp_path: Path) -> None:
    paint(tmp_path / "far")
    # An address of this machine that is not known as one.
    away = replace(stack, extractor=stack.extractor.replace("127.0.0.1", "0.0.0.0"))
    report = tmp_path / "report.html"
    text = away.cli("run", str(tmp_path / "far"), "--model", "raw_pixels", "--report", str(report))
    embeddings = re.search(r"^embeddings: (\S+)$", text, re.MULTILINE)
    assert embeddings is not None, text
    facts = client.embeddings(embeddings[1])
    assert (facts["rows"], facts["classes"], facts["source"]["path"][:9]) == (3 * PER_CLASS, 3, "upload:u-")
    assert "<html" in report.read_text()
    again = away.cli("extract", str(tmp_path / "far"), "--model", "raw_pixels", "--name", "raw_pixels")
    assert again == embeddings[1]


def test_existing_embeddings_are_imported_and_clustered(stack: Running, client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 25)
    np.save(tmp_path / "features.npy", (np.eye(4, 16)[labels] * 9 + rng.normal(size=(100, 16))).astype(np.float32))
    np.save(tmp_path / "labels.npy", labels)
    files = (str(tmp_path / "features.npy"), "--labels", str(tmp_path / "labels.npy"))
    embeddings = stack.cli("import", *files, "--name", "mine")
    clustering = stack.cli("cluster", embeddings, "--over", "1")
    [scored] = client.metrics(clustering)["scored"].values()
    assert scored["mean"]["ari"] == pytest.approx(1.0)


def test_existing_embeddings_are_sent_and_imported_by_the_service(
    stack: Running, client: Client, tmp_path: Path
) -> None:
    rows = np.random.default_rng(4).normal(size=(50, 16)).astype(np.float32)
    np.savez(tmp_path / "sent.npz", train_embs=rows, train_labs=np.arange(50), val_embs=rows[:10])
    printed = stack.cli("import", str(tmp_path / "sent.npz"), "--name", "sent", "--upload").splitlines()
    assert [client.embeddings(each)["rows"] for each in printed] == [50, 10]
    assert client.jobs(kind="import", limit=1).jobs[0].result == {
        "embeddings": printed[0],
        "rows": 50,
        "dim": 16,
        "sets": {"train": printed[0], "val": printed[1]},
    }
    np.save(tmp_path / "broken.npy", np.full((3, 4), np.nan))
    with pytest.raises(AssertionError, match=r"broken\.npy, row 0: holds NaN"):
        stack.cli("import", str(tmp_path / "broken.npy"), "--name", "sent", "--upload")


def test_the_command_line_asks_for_every_kind_of_kmeans(stack: Running, client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    np.save(tmp_path / "features.npy", (np.eye(4, 16)[np.arange(120) % 4] * 9 + rng.normal(size=(120, 16))))
    embeddings = stack.cli("import", str(tmp_path / "features.npy"), "--name", "kinds")
    kinds = ("--spherical", "--balanced", "1.5", "--level", "4", "--level", "2", "--memory-limit", "1GiB")
    stack.cli("cluster", embeddings, "-k", "8", *kinds)
    asked = client.jobs(kind="cluster", limit=1).jobs[0].request
    assert asked["clusters"] == 8
    assert asked["memory_limit"] == 2**30
    assert asked["kmeans"] == {**asked["kmeans"], "spherical": True, "balanced": 1.5, "levels": [4, 2]}
    clustering = stack.cli("cluster", embeddings, "--clusters", "auto", "--seed", "0")
    assert client.clustering(clustering)["k"] == 4


def test_a_study_is_run_once_saved_and_shown(stack: Running, client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(4), 50)
    np.save(tmp_path / "features.npy", (np.eye(4, 32)[labels] * 9 + rng.normal(size=(200, 32))).astype(np.float32))
    np.save(tmp_path / "labels.npy", labels)
    files = (str(tmp_path / "features.npy"), "--labels", str(tmp_path / "labels.npy"))
    embeddings = stack.cli("import", *files, "--name", "study")
    words = ("reproduce", "pca-ablation", embeddings, "--output", str(tmp_path / "out"))
    printed = stack.cli(*words)
    [made] = [each for each in client.sweeps() if each["request"]["embeddings"] == embeddings]
    assert made["id"] in printed
    assert "7.89" in printed  # The paper's, with 16 components.
    saved = {path.name for path in (tmp_path / "out").iterdir()}
    assert saved == {"table.csv", "pca.svg", "pca.png"}
    # The same command again, as after a kill, follows what is there.
    assert stack.cli(*words).startswith(made["id"])
    assert len([each for each in client.sweeps() if each["request"]["embeddings"] == embeddings]) == 1
    assert "2 of 2 points" in stack.cli("show", made["id"])
    assert stack.cli(*words, "--again", "--no-wait") not in made["id"]


def test_a_stopped_system_leaves_nothing_running_and_goes_on_with_its_jobs(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    paint(tmp_path / "data" / "many", per_class=1500)
    first = start(tmp_path)
    wait_until(lambda: is_ready(first), deadline_s=START_S, what="readiness")
    body = {"images": {"path": "many"}, "model": "raw_pixels", "shard_rows": 250}
    location = http.post(f"{first.extractor}/extract", json=body).headers["Location"]
    wait_until(lambda: (http.get(first.extractor + location).json()["progress"] or {}).get("done"), deadline_s=120)
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(60) == 0
    wait_until(lambda: not _processes_of(tmp_path), deadline_s=30, what="the end of every process")

    second = start(tmp_path)
    try:
        wait_until(lambda: is_ready(second), deadline_s=START_S, what="readiness")
        job = finished(second.extractor + location, wait_until)
        assert job["state"] == "succeeded", job["error"]
        assert job["result"]["rows"] == 4500
    finally:
        second.process.kill()
        second.process.wait()
    wait_until(lambda: not _processes_of(tmp_path), deadline_s=30, what="the death of every process")


def _processes_of(root: Path) -> list[str]:
    return list(_commands_of(root).values())


def _commands_of(root: Path) -> dict[int, str]:
    """The services' processes and their commands."""
    marker = f"SHOAL_STORE={root}/store".encode()
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                if marker in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
    return found


def test_a_second_system_on_the_same_store_is_refused(stack: Running) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "shoal.cli",
            "up",
            "--store",
            f"{stack.root}/store",
            "--extractor-port",
            "0",
            "--clusterer-port",
            "0",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "already runs" in done.stderr
