"""`embed` and `assign` against a server that knows each image by its bytes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from shoal import Client
from shoal.client import Assignment
from shoal.client import vectors as shapes
from shoal.errors import (
    DimensionMismatch,
    ImageTruncated,
    ImageUnreadable,
    InvalidRequest,
    Unavailable,
)

from tests.shared.client.conftest import Script

Reply = Callable[[str, Any], tuple[int, bytes]]
NAMES = ["cluster", "distance", "margin", "is_outlier", "label"]


def number(uri: str) -> float:
    """The number that an image of these tests is."""
    return float(base64.b64decode(uri.partition(",")[2]))


def embedded(path: str, body: Any) -> tuple[int, bytes]:
    """Each image's embedding is (n, -n); the answer's rows are in another order than the request's."""
    rows = [
        {"index": at, "embedding": base64.b64encode(np.array([number(uri), -number(uri)], "<f4").tobytes()).decode()}
        for at, uri in enumerate(body["input"])
    ]
    return 200, json.dumps({"data": rows[::-1]}).encode()


def images(count: int) -> list[bytes]:
    """Images that are numbers."""
    return [str(at).encode() for at in range(count)]


def test_embeddings_come_in_the_order_of_the_images(client: Client, script: Script) -> None:
    script.reply = embedded
    found = client.embed(images(200), model="m", batch=30)
    assert found.dtype == np.float32
    assert found.tolist() == [[at, -at] for at in range(200)]
    bodies = [body for _, path, _, body in script.seen if path == "/v1/embeddings"]
    assert sorted(len(body["input"]) for body in bodies) == [20, *[30] * 6]
    assert {(body["model"], body["encoding_format"]) for body in bodies} == {("m", "base64")}


def test_one_image_is_one_row(client: Client, script: Script) -> None:
    script.reply = embedded
    assert client.embed(b"7", model="m").tolist() == [[7, -7]]
    assert script.seen[0][3]["input"] == ["data:image/unknown;base64,Nw=="]


def test_few_requests_are_under_way_at_once(client: Client, script: Script) -> None:
    four = threading.Barrier(4, timeout=20)

    def reply(path: str, body: Any) -> tuple[int, bytes]:
        four.wait()  # Breaks unless exactly four are there each time.
        return embedded(path, body)

    script.reply = reply
    assert len(client.embed(images(16), model="m", batch=2)) == 16


def test_an_overloaded_service_is_asked_again(client: Client, script: Script) -> None:
    busy = iter([503, 429])

    def reply(path: str, body: Any) -> tuple[int, bytes]:
        status = next(busy, None)
        return embedded(path, body) if status is None else (status, b"{}")

    script.reply = reply
    assert client.embed(images(2), model="m").tolist() == [[0, 0], [1, -1]]
    assert len(script.seen) == 3


def test_a_bad_image_is_named_by_its_place_in_the_whole_list(client: Client, script: Script) -> None:
    def reply(path: str, body: Any) -> tuple[int, bytes]:
        numbers = [number(uri) for uri in body["input"]]
        if 37 in numbers:
            detail = f"Input {numbers.index(37)}: The file is truncated."
            error = ImageTruncated(detail, input=numbers.index(37), message=detail)
            return error.status, json.dumps(error.problem()).encode()
        return embedded(path, body)

    script.reply = reply
    with pytest.raises(ImageTruncated, match=r"^images\[37\]: The file is truncated\.$") as caught:
        client.embed(images(1000), model="m", batch=10)
    assert caught.value.members == {"input": 37}
    assert len(script.seen) < 100  # The others are not sent any more.


def test_a_file_that_is_missing_is_named_before_it_is_sent(client: Client, script: Script) -> None:
    script.reply = embedded
    with pytest.raises(ImageUnreadable, match=r"images\[1\] \(gone\.png\)"):
        client.embed([b"0", "gone.png"], model="m")
    assert not script.seen


def test_a_service_that_stays_away_is_unavailable(
    script: Script, connect: Callable[..., Client], waits: list[float]
) -> None:
    script.answers = [(503, {"code": "unavailable", "detail": "The queue of the model host is full."})]
    with connect(script.url, script.url, retries=2) as client, pytest.raises(Unavailable, match="host is full"):
        client.embed(images(500), model="m", batch=1)
    assert len(waits) <= 2 * 4


ROWS: list[dict[str, Any]] = [
    {"cluster": 3, "distance": 0.5, "margin": 0.25, "is_outlier": False, "label": "dog", "more": 1},
    {"cluster": 0, "distance": 2.5, "margin": 0.5, "is_outlier": True, "label": None, "more": 2},
]


def stream(rows: list[dict[str, Any]]) -> bytes:
    """As an Arrow stream."""
    types = [pa.int32(), pa.float32(), pa.float32(), pa.bool_(), pa.string()]
    schema = pa.schema(list(zip(NAMES, types, strict=True)))
    file = BytesIO()
    with pa.ipc.new_stream(file, schema) as writer:
        for row in rows:
            writer.write_table(pa.Table.from_pylist([{name: row[name] for name in NAMES}], schema))
    return file.getvalue()


def test_images_are_assigned(client: Client, script: Script) -> None:
    script.reply = lambda path, body: (200, json.dumps([ROWS[0]] * len(body["images"])).encode())
    found = client.assign("c", images=images(65))
    assert len(found) == 65
    assert found[64] == Assignment(3, 0.5, 0.25, False, "dog")
    assert {path for _, path, _, _ in script.seen} == {"/clusterings/c/assign"}


def test_outliers_of_an_unscored_train_set_are_unknown(client: Client, script: Script) -> None:
    script.reply = lambda path, body: (200, json.dumps([{**ROWS[1], "is_outlier": None, "margin": None}] * 2).encode())
    found = client.assign("c", images=images(2))
    assert found.is_outlier is None
    assert found[1].is_outlier is None
    assert np.isnan(found[1].margin)


def test_vectors_are_assigned(client: Client, script: Script) -> None:
    script.reply = lambda path, body: (200, stream(ROWS))
    vectors = [[1.0, 2.0, 3.0], [4.5, 5.0, 6.0]]
    found = client.assign("c", vectors=vectors, outlier_quantile=0.9)
    assert list(found) == [Assignment(3, 0.5, 0.25, False, "dog"), Assignment(0, 2.5, 0.5, True, None)]
    columns = (found.cluster, found.distance, found.margin, found.is_outlier)
    assert [str(np.asarray(column).dtype) for column in columns] == ["int32", "float32", "float32", "bool"]
    assert found[1:].label.tolist() == [None]
    _, path, headers, body = script.seen[0]
    assert path == "/clusterings/c/assign?outlier_quantile=0.9"
    assert headers["content-type"] == "application/x-npy"
    sent = np.load(BytesIO(body))
    assert sent.dtype == np.float32
    assert sent.tolist() == vectors


def test_many_vectors_are_sent_in_parts(client: Client, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(path: str, body: bytes) -> tuple[int, bytes]:
        rows = np.load(BytesIO(body))
        return 200, stream([{**ROWS[0], "cluster": int(row[0])} for row in rows[:1]] + [ROWS[1]] * (len(rows) - 1))

    script.reply = reply
    monkeypatch.setattr(shapes, "MAX_BYTES", 100 * 4)
    found = client.assign("c", vectors=np.arange(205, dtype=np.float64)[:, None])
    assert len(found) == 205
    assert found.cluster[[0, 100, 200]].tolist() == [0, 100, 200]


@pytest.mark.parametrize("vectors", [[[1, 2], [3]], [["a"]], [], [[]], 3.0, np.zeros((2, 2, 2))])
def test_what_is_no_list_of_vectors_is_refused(client: Client, vectors: Any) -> None:
    with pytest.raises(InvalidRequest, match="`vectors`"):
        client.assign("c", vectors=vectors)


def test_one_vector_is_one_row(client: Client, script: Script) -> None:
    script.reply = lambda path, body: (200, stream(ROWS[:1]))
    assert client.assign("c", vectors=np.ones(3))[0].cluster == 3
    assert np.load(BytesIO(script.seen[0][3])).shape == (1, 3)


def test_vectors_of_another_model_are_refused(client: Client, script: Script) -> None:
    error = DimensionMismatch("Row 0 has 3 values.", row=0)
    script.reply = lambda path, body: (error.status, json.dumps(error.problem()).encode())
    with pytest.raises(DimensionMismatch, match="Row 0 has 3 values"):
        client.assign("c", vectors=[[1, 2, 3]])


def test_images_and_vectors_exclude_each_other(client: Client) -> None:
    for given in ({}, {"images": b"1", "vectors": [[1]]}):
        with pytest.raises(InvalidRequest, match="exactly one of `images` and `vectors`"):
            client.assign("c", **given)  # type: ignore[arg-type]
