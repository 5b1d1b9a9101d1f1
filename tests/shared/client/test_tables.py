"""What the clients return turns into tables of other libraries, and into safe HTML of bounded size in a notebook."""

from __future__ import annotations

import builtins
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from shoal import Client, notebook
from shoal.client import Assignments, ContactSheet, Facts, Neighbour, Rows, Table
from shoal.client.tables import Tabular
from shoal.figures import Metrics
from shoal.schemas import Job, JobPage

from tests.shared.client.conftest import Script

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>\udcff'
THUMBNAIL = "data:image/webp;base64,UklGRg=="
JOB = Job(
    id="j1",
    kind="cluster",
    state="failed",
    created_at=datetime.now(UTC),
    request={},
    error={"detail": HOSTILE},
)
MEAN = {"ari": 0.5, "accuracy": {"hungarian": {"train": 0.75}}, "chance": {"ari": 0.0, "accuracy": 0.125}}
METRICS = {"scored": {HOSTILE: {"mean": MEAN, "std": {}}}}


class Tags(HTMLParser):
    """The tags and the attributes of a document."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, list[str]] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")


def assignments() -> Assignments:
    return Assignments(
        cluster=np.array([3, 1], np.int32),
        distance=np.array([0.5, 0.25], np.float32),
        margin=np.array([0.1, 0.2], np.float32),
        is_outlier=None,
        label=np.array(["cat", None], object),
        merged_cluster=None,
        name=np.array([None, None], object),
    )


TABLES: dict[str, Tabular] = {
    "rows": Rows([{"cluster": 3, "label": "cat"}, {"cluster": 1, "label": None}]),
    "neighbours": Rows([Neighbour(3, "a.jpg", 0.5, "cat"), Neighbour(1, "b.jpg", 0.25, None)]),
    "assignments": assignments(),
    "table": Table(pa.table({"cluster": [3, 1], "label": ["cat", None]})),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_result_is_a_table_of_each_library(name: str) -> None:
    pytest.importorskip("polars")
    source = TABLES[name]
    arrow = source.to_arrow()
    assert arrow.column("label").to_pylist() == ["cat", None]
    pandas, polars = source.to_pandas(), source.to_polars()
    assert list(pandas.columns) == polars.columns == arrow.column_names
    assert len(pandas) == len(polars) == 2
    first = arrow.column_names[0]
    assert pandas[first].tolist() == polars[first].to_list() == arrow.column(first).to_pylist() == [3, 1]


@pytest.mark.parametrize(("method", "package"), [("to_pandas", "pandas"), ("to_polars", "polars")])
def test_a_library_that_is_missing_is_named(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return found(name, *rest, **named)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"`{method}` needs {package}: install it with `pip install {package}`"):
        getattr(TABLES["rows"], method)()


def test_rows_are_the_list_and_the_dicts_that_they_were() -> None:
    rows = Rows([{"id": "a"}])
    assert rows == [{"id": "a"}]
    assert json.loads(json.dumps(rows)) == [{"id": "a"}]
    assert Facts({"id": "a"}) == {"id": "a"}


def test_values_of_several_types_become_json_and_odd_names_stay_readable() -> None:
    mixed = Rows([{"spec": {"a": 1}, "path": "caf\udce9.jpg"}, {"spec": [1], "more": 2}]).to_arrow()
    assert mixed.column("spec").to_pylist() == ['{"a": 1}', "[1]"]
    assert mixed.column("path").to_pylist() == ["caf\\udce9.jpg", None]
    assert mixed.column("more").to_pylist() == [None, 2]
    assert Rows([]).to_arrow().num_rows == 0


def hostile_sheet() -> ContactSheet:
    members = [{"image_path": HOSTILE, "thumbnail": THUMBNAIL}, {"image_path": HOSTILE, "thumbnail": HOSTILE}]
    members.append({"image_path": "a", "thumbnail": "https://tracker.example/x.png"})
    return ContactSheet([{"cluster": 1, "size": 2, "label": HOSTILE, "nearest": members}], 8)


SHOWN: dict[str, Callable[[], Any]] = {
    "metrics": lambda: Metrics(METRICS),
    "facts": lambda: Facts({"id": HOSTILE, "scored": [HOSTILE], "metrics": MEAN, HOSTILE: HOSTILE}),
    "rows": lambda: Rows([{HOSTILE: HOSTILE}]),
    "neighbours": lambda: Rows([Neighbour(1, HOSTILE, 0.5, HOSTILE)]),
    "table": lambda: Table(pa.table({"a\"'<b>": [HOSTILE[:-1]]})),
    "job": lambda: JOB,
    "jobs": lambda: JobPage(jobs=[JOB]),
    "sheet": hostile_sheet,
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_hostile_name_stays_text(name: str) -> None:
    html = SHOWN[name]()._repr_html_()
    html.encode()
    found = Tags(html)
    assert found.tags <= {"table", "thead", "tbody", "tr", "th", "td", "b", "p", "div", "span", "img"}
    assert set(found.attributes) <= {"style", "title", "alt", "src"}
    assert set(found.attributes.get("src", [])) <= {THUMBNAIL}


def test_metrics_stand_beside_their_chance_levels() -> None:
    shown = Metrics(METRICS)._repr_html_()
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", shown)
    assert cells[2:] == ["chance", "Accuracy, Hungarian", "0.750", "0.125", "ARI", "0.500", "0.000"]
    assert Facts({"id": "c", "scored": ["s"], "metrics": MEAN})._repr_html_().count("0.125") == 1


def test_what_a_notebook_shows_is_bounded() -> None:
    table = Rows([{f"c{column}": "x" * 10_000 for column in range(40)} for _ in range(1000)])._repr_html_()
    assert len(table) < 500_000
    assert f"{notebook.MAX_ROWS} of 1,000 rows, {notebook.MAX_COLUMNS} of 40 columns" in table
    image = "data:image/webp;base64," + "A" * 60_000
    members = [{"image_path": "a", "thumbnail": image}] * 8
    sheet = ContactSheet([{"cluster": n, "size": 8, "nearest": members} for n in range(40)], 8)._repr_html_()
    assert notebook.MAX_IMAGES_BYTES * 0.9 < len(sheet) < notebook.MAX_IMAGES_BYTES * 1.1
    huge = {"cluster": 0, "size": 1, "nearest": [{"image_path": "a", "thumbnail": image * 2}]}
    assert "<img" not in ContactSheet([huge], 8)._repr_html_()


def test_both_clients_return_tables(script: Script, client: Client) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"row": [0, 1], "cluster": [2, 2]})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    clusters = {"clusters": [{"cluster": 5, "size": 2}]}
    member = {"image_path": "a.jpg", "thumbnail": THUMBNAIL}

    def reply(path: str, _: object) -> tuple[int, bytes]:
        if "assignments" in path or path == "/clusterings/c/map?embeddings=e&format=arrow":
            return 200, sink.getvalue().to_pybytes()
        if "/clusters/5?thumbnails=true" in path:
            return 200, json.dumps({"cluster": 5, "size": 2, "nearest": [member]}).encode()
        if "/clusters" in path:
            return 200, json.dumps(clusters).encode()
        return 200, json.dumps({"rows": [{"row": 0, "image_path": "a.jpg"}], "next_cursor": None}).encode()

    script.reply = reply
    assert client.assignments_table("c").to_arrow() == table
    assert client.map("c", embeddings="e").to_arrow() == table
    assert client.assigned_table("a").to_arrow() == table
    assert client.rows_table("e").to_arrow().to_pylist() == [{"row": 0, "image_path": "a.jpg"}]
    assert client.clusters("c").to_pandas()["size"].tolist() == [2]
    sheet = client.contact_sheet("c", clusters=1)
    assert THUMBNAIL in sheet._repr_html_()
    assert sheet[0]["cluster"] == 5
