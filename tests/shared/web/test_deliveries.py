"""The webhook of every ended job arrives, signed, whatever dies on the way, and goes nowhere else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi import APIRouter, FastAPI, Response
from fastapi.testclient import TestClient
from shoal.errors import JobNotFound
from shoal.jobs.callbacks import HOLD_S
from shoal.jobs.queue import JobQueue
from shoal.schemas import ClusterRequest, Job
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import SubmitterDep, accepted, create_app, deliveries
from shoal.web.deliveries import AT_ONCE, DELAYS_S, send

from tests.shared.web.conftest import LEASE_S, SECRET, Receiver, Service, rules, verified

OLD_SECRET = "whsec_" + "YW4gb2xkZXIgc2VjcmV0IG9mIHNob2Fs"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def service(redis_client: redis.Redis, receiver: Receiver) -> Service:
    return Service(redis_client, rules(f"127.0.0.1:{receiver.port}"))


def succeeded(service: Service, url: str) -> str:
    job, _ = service.queue.submit("work", {"secret": "not sent"}, callback=url)
    claim = service.queue.claim(["work"], "worker")
    assert claim is not None
    service.queue.succeed(claim, {"embeddings": "e-1"})
    return job.id


def test_the_end_of_a_job_is_delivered_once_and_signed(service: Service, receiver: Receiver) -> None:
    job_id = succeeded(service, receiver.url)
    assert (service.deliver(), service.deliver()) == (1, 0)
    [(headers, body)] = receiver.came
    event = verified(headers, body, SECRET)
    assert event["type"] == "job.succeeded"
    assert event["data"]["id"] == job_id
    assert event["data"]["result"] == {"embeddings": "e-1"}
    assert event["timestamp"] == event["data"]["finished_at"]
    assert b"not sent" not in body
    assert headers["webhook-id"] == f"{job_id}_succeeded"
    assert headers["content-type"] == "application/json"
    callback = service.queue.get(job_id).callback
    assert callback is not None
    assert (callback.state, callback.attempts, callback.last_error) == ("delivered", 1, None)
    assert service.queue.callbacks.counts() == {"pending": 0, "dead": 0}


def test_a_receiver_that_fails_is_asked_again_by_whoever_runs_then(service: Service, receiver: Receiver) -> None:
    receiver.answers = [(500, {}), (200, {})]
    job_id = succeeded(service, receiver.url)
    assert service.deliver() == 1
    failed = service.queue.get(job_id).callback
    assert failed is not None
    assert (failed.state, failed.attempts) == ("pending", 1)
    assert failed.last_error == "The receiver answered 500."
    assert failed.next_attempt_at is not None
    service.restart(after_s=1.0)
    assert service.deliver() == 0
    service.restart(after_s=10.0)
    assert service.deliver() == 1
    (first, body), (second, again) = receiver.came
    assert first["webhook-id"] == second["webhook-id"]
    assert body == again
    verified(second, again, SECRET)
    done = service.queue.get(job_id).callback
    assert done is not None
    assert (done.state, done.attempts, done.last_error, done.next_attempt_at) == ("delivered", 2, None, None)


def test_a_callback_whose_process_dies_is_delivered_by_another(service: Service, receiver: Receiver) -> None:
    job_id = succeeded(service, receiver.url)
    lost = service.queue.callbacks.claim()
    assert lost is not None
    assert service.deliver() == 0
    service.restart(after_s=HOLD_S + 1)
    other = service.queue.callbacks.claim()
    assert other is not None
    assert not service.queue.callbacks.retry(lost, "late", 0.0)
    service.restart(after_s=HOLD_S + 1)
    assert service.deliver() == 1
    # The first one was only slow: what it says now changes nothing.
    assert not service.queue.callbacks.give_up(lost, "late")
    callback = service.queue.get(job_id).callback
    assert callback is not None
    assert callback.state == "delivered"


def test_the_queue_server_restarts_between_a_job_s_end_and_its_delivery(own_redis: Any, receiver: Receiver) -> None:
    client = redis.Redis.from_url(own_redis.url)
    here = Service(client, rules(f"127.0.0.1:{receiver.port}"))
    job_id = succeeded(here, receiver.url)
    client.bgrewriteaof()
    client.shutdown(nosave=True)
    own_redis.kill()
    own_redis.start()
    assert here.deliver() == 1
    assert verified(*receiver.came[0], SECRET)["data"]["id"] == job_id
    client.close()


router = APIRouter()


@router.post("/things", status_code=202)
def post_thing(body: ClusterRequest, response: Response, submitter: SubmitterDep) -> Job:
    return accepted(submitter.submit("cluster", body, None), response)


def api(settings: Settings, queue: JobQueue) -> FastAPI:
    return create_app(
        service="test",
        routers=[router],
        kinds=["cluster"],
        settings=settings,
        queue=queue,
        store=Store(settings.store),
    )


Ending = Callable[[Service, str], Service]


def cancelled_while_queued(service: Service, job_id: str) -> Service:
    service.queue.cancel(job_id)
    return service


def cancelled_while_running(service: Service, job_id: str) -> Service:
    claim = service.queue.claim(["work"], "worker")
    assert claim is not None
    service.queue.cancel(job_id)
    service.queue.cancelled(claim)
    return service


def cancelled_and_handed_back(service: Service, job_id: str) -> Service:
    claim = service.queue.claim(["work"], "worker")
    assert claim is not None
    service.queue.cancel(job_id)
    service.queue.hand_back(claim)
    return service


def failed_by_its_worker(service: Service, job_id: str) -> Service:
    claim = service.queue.claim(["work"], "worker")
    assert claim is not None
    service.queue.fail(claim, {"code": "job_failed", "detail": "It broke."}, retry=False)
    return service


def failed_by_a_lost_lease(service: Service, job_id: str) -> Service:
    service.queue.claim(["work"], "worker")
    service.queue.reap()
    for _ in range(6):  # As other workers do; one long gap is an outage of the queue.
        service.restart(after_s=LEASE_S / 3)
        service.queue.reap()
    return service


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (cancelled_while_queued, "cancelled"),
        (cancelled_while_running, "cancelled"),
        (cancelled_and_handed_back, "cancelled"),
        (failed_by_its_worker, "failed"),
        (failed_by_a_lost_lease, "failed"),
    ],
)
def test_every_end_is_delivered(service: Service, receiver: Receiver, end: Ending, state: str) -> None:
    job, _ = service.queue.submit("work", {}, max_attempts=1, callback=receiver.url)
    assert service.deliver() == 0
    end(service, job.id)
    assert service.queue.get(job.id).state == state
    assert service.deliver() == 1
    event = verified(*receiver.came[0], SECRET)
    assert (event["type"], event["data"]["state"]) == (f"job.{state}", state)
    assert (event["data"]["error"] is not None) == (state == "failed")


def test_an_attempt_that_is_repeated_delivers_nothing(service: Service, receiver: Receiver) -> None:
    service.queue.submit("work", {}, callback=receiver.url)
    claim = service.queue.claim(["work"], "worker")
    assert claim is not None
    service.queue.fail(claim, {"code": "transient_failure"}, retry=True)
    assert service.deliver() == 0


def test_a_job_without_a_callback_has_none(service: Service) -> None:
    job, _ = service.queue.submit("work", {})
    service.queue.cancel(job.id)
    assert service.queue.get(job.id).callback is None
    assert service.deliver() == 0


def test_it_is_given_up_in_the_end(service: Service, receiver: Receiver) -> None:
    receiver.answers = [(503, {})] * 20
    job_id = succeeded(service, receiver.url)
    while (callback := service.queue.get(job_id).callback) is not None and callback.state == "pending":
        assert service.deliver() == 1
        service.restart(after_s=1.2 * max(DELAYS_S))
    assert callback is not None
    assert (callback.state, callback.attempts) == ("dead", len(DELAYS_S) + 1)
    assert callback.last_error == "The receiver answered 503."
    assert service.queue.callbacks.counts() == {"pending": 0, "dead": 1}


def test_a_receiver_that_is_gone_is_left_alone(service: Service, receiver: Receiver) -> None:
    receiver.answers = [(410, {})]
    job_id = succeeded(service, receiver.url)
    assert service.deliver() == 1
    callback = service.queue.get(job_id).callback
    assert callback is not None
    assert (callback.state, callback.attempts) == ("dead", 1)


def test_a_receiver_says_when_to_come_again(service: Service, receiver: Receiver) -> None:
    receiver.answers = [(429, {"Retry-After": "3600"})]
    job_id = succeeded(service, receiver.url)
    service.deliver()
    service.restart(after_s=3000)
    assert service.deliver() == 0
    service.restart(after_s=700)
    assert service.deliver() == 1
    callback = service.queue.get(job_id).callback
    assert callback is not None
    assert callback.state == "delivered"


def test_no_redirect_is_followed(service: Service, receiver: Receiver) -> None:
    receiver.answers = [(302, {"Location": f"http://127.0.0.1:{receiver.port}/other"})]
    job_id = succeeded(service, receiver.url)
    service.deliver()
    assert len(receiver.came) == 1
    callback = service.queue.get(job_id).callback
    assert callback is not None
    assert callback.last_error == "The receiver answered 302; redirects are not followed."


def test_a_receiver_that_never_ends_its_answer_is_left(
    service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "ANSWER_S", 0.5)
    receiver.silent = threading.Event()
    job_id = succeeded(service, receiver.url)
    service.deliver()
    callback = service.queue.get(job_id).callback
    assert callback is not None
    assert callback.last_error == "No answer within 0.5 seconds."


def test_slow_receivers_hold_no_more_than_their_share(
    service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(deliveries, "POLL_S", 0.02)
    receiver.silent = threading.Event()
    for _ in range(AT_ONCE + 2):
        succeeded(service, receiver.url)
    with service.deliveries.running():
        wait_until(lambda: len(receiver.came) == AT_ONCE)
        counts, came = service.queue.callbacks.counts(), len(receiver.came)
        receiver.silent.set()
    assert (counts, came) == ({"pending": AT_ONCE + 2, "dead": 0}, AT_ONCE)


def test_an_api_delivers_and_the_next_one_goes_on(
    redis_server: str,
    queue: JobQueue,
    receiver: Receiver,
    tmp_path: Path,
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(
        store=tmp_path,
        redis_url=redis_server,
        callback_hosts=frozenset({f"127.0.0.1:{receiver.port}"}),
        callback_secret=SECRET,
    )
    monkeypatch.setattr(deliveries, "DELAYS_S", (1.5, 1.5))
    receiver.answers = [(500, {})]
    with TestClient(api(settings, queue)) as client:
        sent = {"embeddings": "e", "clusters": 3}
        job = client.post("/things", json={**sent, "callback_url": receiver.url}).json()
        assert (job["request"], job["callback"]["state"]) == (sent, "waiting")
        assert client.delete(f"/jobs/{job['id']}").status_code == 202
        wait_until(lambda: queue.callbacks.counts()["pending"] and receiver.came)
        wait_until(lambda: 'shoal_callback_attempts_total{outcome="failed"} 1.0' in client.get("/metrics").text)
        assert "shoal_callbacks{state=" in client.get("/metrics").text
    with TestClient(api(settings, queue)) as client:
        wait_until(lambda: client.get(f"/jobs/{job['id']}").json()["callback"]["state"] == "delivered")
    event = verified(*receiver.came[1], SECRET)
    assert (event["type"], event["data"]["links"]["self"]) == ("job.cancelled", f"/jobs/{job['id']}")


@pytest.mark.parametrize(
    ("changes", "missing"),
    [({"callback_secret": SECRET}, "SHOAL_CALLBACK_HOSTS"), ({"callback_hosts": frozenset({"a.example"})}, "SECRET")],
)
def test_a_callback_is_refused_until_hosts_and_a_secret_are_set(
    redis_server: str, queue: JobQueue, tmp_path: Path, changes: dict[str, Any], missing: str
) -> None:
    client = TestClient(api(Settings(store=tmp_path, redis_url=redis_server, **changes), queue))
    answer = client.post("/things", json={"embeddings": "e", "clusters": 3, "callback_url": "https://a.example/"})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
        422,
        "callback_refused",
        "callback_url",
    )
    assert missing in answer.json()["detail"]
    assert queue.list().jobs == []


@contextmanager
def resolving(monkeypatch: pytest.MonkeyPatch, to: str) -> Iterator[None]:
    def found(host: str, port: int, *_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (to, port))]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", found)
        yield


def test_a_name_that_leads_into_the_private_network_is_not_asked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(id="a", kind="work", state="failed", created_at=datetime.now(UTC), request={})
    url = f"http://hooks.example:{receiver.port}/"
    with resolving(monkeypatch, "127.0.0.1"):
        refused = send(rules(f"hooks.example:{receiver.port}"), url, job)
        # Another port of the same address was listed.
        other = send(rules(f"hooks.example:{receiver.port}", "127.0.0.1:1"), url, job)
        assert receiver.came == []
        listed = send(rules(f"hooks.example:{receiver.port}", f"127.0.0.1:{receiver.port}"), url, job)
    for answer in (refused, other):
        assert answer.error == "ForbiddenAddress: hooks.example resolves to 127.0.0.1, which is not a public address."
    assert (listed.error, len(receiver.came)) == (None, 1)


def test_a_host_that_is_taken_off_the_list_gets_nothing(service: Service, receiver: Receiver) -> None:
    job_id = succeeded(service, receiver.url)
    service.rules = rules("hooks.example")
    service.deliver()
    assert receiver.came == []
    callback = service.queue.get(job_id).callback
    assert callback is not None
    assert "SHOAL_CALLBACK_HOSTS" in (callback.last_error or "")


def test_two_secrets_are_two_signatures_either_of_which_holds(service: Service, receiver: Receiver) -> None:
    service.rules = rules(f"127.0.0.1:{receiver.port}", secret=f"{SECRET} {OLD_SECRET}")
    succeeded(service, receiver.url)
    service.deliver()
    for secret in (SECRET, OLD_SECRET):
        verified(*receiver.came[0], secret)


def test_a_forgotten_job_leaves_no_callback(service: Service, receiver: Receiver, redis_client: redis.Redis) -> None:
    receiver.answers = [(410, {})]
    dead, waiting = succeeded(service, receiver.url), ""
    service.deliver()
    waiting = succeeded(service, receiver.url)
    service.restart(after_s=2e6)
    service.queue.reap()
    for job_id in (dead, waiting):
        with pytest.raises(JobNotFound):
            service.queue.get(job_id)
    assert service.deliver() == 0
    assert not redis_client.exists("shoal:callbacks", "shoal:callbacks:dead")
