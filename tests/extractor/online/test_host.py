"""The model host as its clients meet it: a real process, a real socket, real decode processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from extractor.online import wire
from shoal.process import free_port

from tests.extractor.online.conftest import (
    HELD_MODEL,
    LATE_MODEL,
    LATER_MODEL,
    OTHER_MODEL,
    PATIENCE_S,
    HostProcess,
    StartHost,
    grey,
    picture,
    vectors_of,
)

WaitUntil = Callable[..., None]
RED, GREEN = (255, 0, 0), (0, 255, 0)


def test_each_image_gets_its_row_in_the_order_sent(host: HostProcess) -> None:
    answer = host.ask([grey(value) for value in (9, 1, 5)])
    np.testing.assert_array_equal(vectors_of(answer), [[9] * 3, [1] * 3, [5] * 3])
    assert answer.headers["content-type"] == wire.NPY
    assert answer.headers[wire.DIGEST] == host.models()[HELD_MODEL]["digest"]
    assert len(answer.headers[wire.DIGEST]) == 64


def test_requests_that_wait_share_a_batch(host: HostProcess, wait_until: WaitUntil) -> None:
    host.hold("run")
    first = host.begin([grey(200)])
    wait_until(lambda: len(host.journal("run")) == 1)
    others = [host.begin([grey(value)]) for value in range(20)]
    wait_until(lambda: host.metric("shoal_online_queue_images") == 20)
    wait_until(lambda: host.metric("shoal_online_seconds_count", stage="decode") == 21)
    host.let_go("run")
    assert vectors_of(first.result())[0, 0] == 200
    for value, answer in enumerate(others):
        np.testing.assert_array_equal(vectors_of(answer.result()), [[value] * 3])
    assert host.journal("run") == ["run 1", "run 20"]
    batches = host.metric("shoal_online_batch_images_count")
    assert host.metric("shoal_online_batch_images_sum") / batches > 1


def test_requests_for_a_model_that_loads_wait_for_the_same_load(host: HostProcess, wait_until: WaitUntil) -> None:
    host.hold("load")
    waiting = [host.begin([grey(value)], LATE_MODEL) for value in range(20)]
    wait_until(lambda: host.models().get(LATE_MODEL, {}).get("requests") == 20)
    assert host.models()[LATE_MODEL]["state"] == "loading"
    host.let_go("load")
    for value, answer in enumerate(waiting):
        assert vectors_of(answer.result())[0, 0] == value
    assert host.journal("load") == ["load"]
    assert host.metric("shoal_online_loads_total", outcome="ok") == 1


def test_a_request_that_will_not_wait_for_a_load_is_told_so_and_the_load_goes_on(
    host: HostProcess, wait_until: WaitUntil
) -> None:
    host.hold("load")
    answer = host.ask([grey(1)], LATER_MODEL, timeout_s=0.2)
    assert (answer.status_code, answer.json()["code"]) == (503, "model_loading")
    assert int(answer.headers["Retry-After"]) > 0
    host.let_go("load")
    wait_until(lambda: host.models()[LATER_MODEL]["state"] == "loaded")
    assert host.vectors([grey(1)], LATER_MODEL)[0, 0] == 1
    assert host.journal("load") == ["load"]


@pytest.mark.parametrize("bad", [b"text", b"", picture((1, 1, 1))[:60]])
def test_an_image_that_cannot_be_decoded_costs_its_own_request(
    bad: bytes, host: HostProcess, wait_until: WaitUntil
) -> None:
    host.hold("run")
    good = host.begin([grey(3)])
    answer = host.ask([grey(1), bad])
    assert (answer.status_code, answer.json()["input"]) == (422, 1)
    assert answer.json()["code"].startswith("image_")
    assert answer.headers["content-type"] == "application/problem+json"
    host.let_go("run")
    assert vectors_of(good.result())[0, 0] == 3


@pytest.mark.parametrize(("colour", "code"), [(RED, "not_finite"), (GREEN, "job_failed")])
def test_an_image_that_the_model_fails_on_costs_its_own_request(
    colour: tuple[int, int, int], code: str, host: HostProcess, wait_until: WaitUntil
) -> None:
    host.hold("run")
    host.begin([grey(0)])
    wait_until(lambda: len(host.journal("run")) == 1)
    bad, good = host.begin([grey(2), picture(colour)]), host.begin([grey(3)])
    wait_until(lambda: host.metric("shoal_online_seconds_count", stage="decode") == 4)
    host.let_go("run")
    assert vectors_of(good.result())[0, 0] == 3
    assert bad.result().json()["code"] == code
    assert host.journal("run")[1] == "run 3"
    assert host.vectors([grey(4)])[0, 0] == 4


def test_a_decoder_that_is_killed_is_replaced_and_its_image_decoded_again(
    host: HostProcess, wait_until: WaitUntil
) -> None:
    host.hold("decode")
    answer = host.begin([grey(7) + b"slow"])
    wait_until(lambda: host.journal("decode"))
    first = int(host.journal("decode")[0].split()[1])
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(host.journal("decode")) == 2)
    host.let_go("decode")
    assert vectors_of(answer.result())[0, 0] == 7
    assert host.journal("decode")[1] != f"decode {first}"


def test_what_a_client_that_has_gone_asked_for_is_not_computed(host: HostProcess, wait_until: WaitUntil) -> None:
    host.hold("run")
    first = host.begin([grey(1)])
    wait_until(lambda: len(host.journal("run")) == 1)
    image = grey(2)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.connect(str(host.socket))
        head = f"POST /embed HTTP/1.1\r\nHost: h\r\nContent-Length: {len(image)}\r\n"
        head += f"{wire.MODEL}: {json.dumps(HELD_MODEL)}\r\n{wire.LENGTHS}: {len(image)}\r\n\r\n"
        gone.sendall(head.encode() + image)
        wait_until(lambda: host.metric("shoal_online_queue_images") == 1)
    wait_until(lambda: host.metric("shoal_online_requests_total", outcome="client_gone") == 1)
    assert host.metric("shoal_online_images_total", outcome="dropped") == 1
    with socket.socket(socket.AF_UNIX) as gone:
        gone.connect(str(host.socket))
        gone.sendall(head.encode() + image[:9])
    wait_until(lambda: host.metric("shoal_online_requests_total", outcome="client_gone") == 2)
    assert "Traceback" not in host.log.read_text(), "a client that goes is no fault"
    host.let_go("run")
    assert vectors_of(first.result())[0, 0] == 1
    assert host.vectors([grey(3)])[0, 0] == 3
    assert host.journal("run") == ["run 1"] * 2


def test_what_nobody_waits_for_any_more_is_not_computed(host: HostProcess, wait_until: WaitUntil) -> None:
    host.hold("run")
    first = host.begin([grey(1)])
    wait_until(lambda: len(host.journal("run")) == 1)
    answer = host.ask([grey(2)], timeout_s=0.2)
    assert (answer.status_code, answer.json()["code"]) == (503, "deadline_passed")
    host.let_go("run")
    assert vectors_of(first.result())[0, 0] == 1
    assert host.journal("run") == ["run 1"]
    assert host.metric("shoal_online_images_total", outcome="dropped") == 1


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({wire.MODEL: ""}, 422, "invalid_request"),
        ({wire.MODEL: "plain text"}, 422, "invalid_request"),
        ({wire.MODEL: '"nothing"'}, 422, "unknown_model"),
        ({wire.MODEL: '{"architecture": "resnet18", "weights": "../x.pth"}'}, 422, "path_outside_root"),
        ({wire.MODEL: '"handler:os:system"'}, 422, "invalid_request"),
        ({wire.LENGTHS: "1"}, 422, "invalid_request"),
        ({wire.LENGTHS: "-5,10"}, 422, "invalid_request"),
        ({wire.LENGTHS: "many"}, 422, "invalid_request"),
        ({wire.LENGTHS: ",".join(["1"] * 65)}, 413, "body_too_large"),
        ({wire.LENGTHS: str(2**40)}, 413, "body_too_large"),
        ({wire.TIMEOUT_MS: "0"}, 422, "invalid_request"),
        ({wire.TIMEOUT_MS: "nan"}, 422, "invalid_request"),
    ],
)
def test_requests_that_cannot_be_answered_say_why(
    headers: dict[str, str], status: int, code: str, host: HostProcess
) -> None:
    image = grey(0)
    sent = {wire.MODEL: json.dumps(HELD_MODEL), wire.LENGTHS: str(len(image)), **headers}
    answer = host.http.post("/embed", content=image, headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert host.answers()


def test_a_weight_file_that_is_missing_is_named(host: HostProcess) -> None:
    answer = host.ask([grey(0)], "resnet50_moco")
    assert (answer.status_code, answer.json()["code"]) == (500, "weights_missing")


def test_a_model_of_the_other_backend_is_refused(host: HostProcess) -> None:
    answer = host.ask([grey(0)], "resnet50_simclr")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "runs with tfserving; this host runs torch" in answer.json()["detail"]


def test_two_models_are_held_at_once(host: HostProcess) -> None:
    assert host.vectors([grey(1)], HELD_MODEL)[0, 0] == host.vectors([grey(1)], OTHER_MODEL)[0, 0] == 1
    assert {HELD_MODEL, OTHER_MODEL} <= set(host.models())


def test_a_host_does_what_its_settings_say(start_host: StartHost, wait_until: WaitUntil) -> None:
    port = free_port()
    host = start_host(
        SHOAL_ONLINE_PRELOAD=f"raw_pixels,nothing,{HELD_MODEL}",
        SHOAL_ONLINE_MAX_QUEUE="3",
        SHOAL_METRICS_PORT=str(port),
    )
    wait_until(lambda: set(host.models()) == {"raw_pixels", HELD_MODEL})
    wait_until(lambda: all(row["state"] == "loaded" for row in host.models().values()))
    assert "`GET /models` lists all" in host.log.read_text()
    assert "shoal_online_loads_total" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert_a_full_queue_refuses(host, wait_until)


def assert_a_full_queue_refuses(host: HostProcess, wait_until: WaitUntil) -> None:
    host.hold("run")
    begun = [host.begin([grey(1)])]
    wait_until(lambda: len(host.journal("run")) == 1)
    begun += [host.begin([grey(value)]) for value in (2, 3, 4)]
    wait_until(lambda: host.metric("shoal_online_queue_images") == 3)
    answer = host.ask([grey(5)])
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert int(answer.headers["Retry-After"]) >= 1
    host.let_go("run")
    assert [vectors_of(each.result())[0, 0] for each in begun] == [1, 2, 3, 4]
    assert host.metric("shoal_online_requests_total", outcome="overloaded") == 1


def test_sigterm_lets_requests_end_and_takes_the_socket_away(start_host: StartHost, wait_until: WaitUntil) -> None:
    host = start_host()
    host.vectors([grey(0)])
    host.forget()
    host.hold("run")
    answer = host.begin([grey(1)])
    wait_until(lambda: len(host.journal("run")) == 1)
    decoders = psutil.Process(host.process.pid).children()
    host.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Shutting down" in host.log.read_text())
    host.let_go("run")
    assert vectors_of(answer.result())[0, 0] == 1
    assert host.process.wait(PATIENCE_S) == 0
    assert not host.socket.exists()
    wait_until(lambda: not any(decoder.is_running() for decoder in decoders))


def test_sigterm_does_not_wait_for_a_load_or_a_batch_without_end(start_host: StartHost, wait_until: WaitUntil) -> None:
    host = start_host()
    host.vectors([grey(0)])
    host.forget()
    host.hold("run")
    host.hold("load")
    begun = [host.begin([grey(1)]), host.begin([grey(1)], OTHER_MODEL)]
    wait_until(lambda: len(host.journal("run")) == len(host.journal("load")) == 1)
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(PATIENCE_S) == 0
    for answer in begun:
        assert isinstance(answer.exception(), httpx.TransportError) or answer.result().status_code >= 500


def test_only_this_user_reaches_the_socket(host: HostProcess) -> None:
    assert stat.S_IMODE(host.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.socket.parent.stat().st_mode) == 0o700


def test_a_second_host_on_the_socket_is_refused(host: HostProcess, start_host: StartHost) -> None:
    second = start_host(root=host.root, wait=False)
    assert second.process.wait(PATIENCE_S) == 1
    assert f"Process {host.process.pid} already listens on {host.socket}" in host.log.read_text()
    assert host.vectors([grey(1)])[0, 0] == 1


def test_a_host_that_was_killed_leaves_nothing_in_the_way(start_host: StartHost, wait_until: WaitUntil) -> None:
    host = start_host()
    host.vectors([grey(0)])
    decoders = psutil.Process(host.process.pid).children()
    os.kill(host.process.pid, signal.SIGKILL)
    host.process.wait()
    assert host.socket.exists()
    wait_until(lambda: not any(decoder.is_running() for decoder in decoders))
    again = start_host(root=host.root)
    assert again.vectors([grey(1)])[0, 0] == 1


def test_a_path_too_long_for_a_socket_is_named(start_host: StartHost, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    host = start_host(wait=False, SHOAL_ONLINE=str(folder))
    assert host.process.wait(PATIENCE_S) == 1
    assert "a socket's may have 107" in host.log.read_text()
    assert not folder.exists()
