"""What the command line says of a request that cannot work: in flags, not in fields."""

from __future__ import annotations

from pathlib import Path

import pytest
from shoal import Client
from shoal.cli import app
from shoal.cli.flags import CLUSTER, EXTRACT, errors_in_flags, in_flags
from shoal.errors import InvalidRequest, PathNotFound, by_code
from typer.testing import CliRunner


def refused(*errors: tuple[str, str], code: str = "invalid_request") -> InvalidRequest:
    listed = [{"field": field, "code": "x", "message": message} for field, message in errors]
    detail = "; ".join(f"{field or 'body'}: {message}" for field, message in errors)
    error = by_code({"code": code, "status": 422, "detail": detail, "errors": listed})
    assert isinstance(error, InvalidRequest)
    return error


def test_fields_become_the_flags_that_set_them() -> None:
    said = in_flags(refused(("kmeans.restarts", "Send a whole number."), ("pca.components", "Too many.")), CLUSTER)
    assert said.detail == "--restarts: Send a whole number.; --pca: Too many."
    assert said.code == "invalid_request"


@pytest.mark.parametrize(("words", "sent"), [((), {}), (("--no-reuse",), {"reuse": None})])
def test_nothing_is_reused_on_request(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], sent: dict[str, object]
) -> None:
    seen: list[dict[str, object]] = []

    def extract(self: Client, path: str, **options: object) -> None:
        seen.append(options)
        raise InvalidRequest("enough")

    monkeypatch.setattr(Client, "extract", extract)
    with pytest.raises(InvalidRequest, match="enough"):
        CliRunner().invoke(app, ["extract", "photos", *words], catch_exceptions=False, standalone_mode=False)
    assert {name: value for name, value in seen[0].items() if name == "reuse"} == sent


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ([], None),
        (["--execution", "ray"], {"engine": "ray"}),
        (
            ["--workers", "3", "--worker-memory", "2GiB"],
            {"engine": "ray", "workers": 3, "resources": {"memory": "2GiB"}},
        ),
        (
            ["--ray-address", "head:6379", "--worker-cpus", "2"],
            {"engine": "ray", "address": "head:6379", "resources": {"cpus": 2}},
        ),
    ],
)
@pytest.mark.parametrize("command", [["cluster", "e", "-k", "4"], ["sweep", "e", "-k", "4"], ["duplicates", "e"]])
def test_flags_say_where_a_job_computes(
    monkeypatch: pytest.MonkeyPatch, command: list[str], words: list[str], sent: dict[str, object] | None
) -> None:
    seen: list[object] = []

    def submitted(self: Client, *_: object, execution: object = None, **__: object) -> None:
        seen.append(execution)
        raise InvalidRequest("enough")

    monkeypatch.setattr(Client, command[0], submitted)
    again = ["--again"] if command[0] == "sweep" else []
    with pytest.raises(InvalidRequest, match="enough"):
        CliRunner().invoke(app, [*command, *again, *words], catch_exceptions=False, standalone_mode=False)
    assert seen == [sent]


def test_a_field_within_a_flags_value_is_said_of_the_flag() -> None:
    said = in_flags(refused(("images.labels.file", "Send a string.")), EXTRACT)
    assert said.detail == "--labels: Send a string."


def test_what_is_wrong_with_all_of_a_request_names_flags_and_no_body() -> None:
    said = in_flags(refused(("", "send `clusters` or `over`, and `seed` or `seeds`")), CLUSTER)
    assert said.detail == "Send `--clusters` or `--over`, and `--seed` or `--seed`"


def test_other_errors_keep_their_code_and_members() -> None:
    error = PathNotFound("`images.path` is 'x': nothing of that name is below the root.", field="images.path")
    with pytest.raises(PathNotFound, match=r"^`PATH` is 'x'") as raised, errors_in_flags(EXTRACT):
        raise error
    assert raised.value.members["field"] == "images.path"


def test_a_field_without_a_flag_keeps_its_name() -> None:
    assert "`images.sha`" in in_flags(InvalidRequest("`images.sha` is odd"), CLUSTER).detail


@pytest.mark.parametrize("value", ["ten", "1", "-3", "2.5", "", "10000001", "٣"])
def test_a_number_of_clusters_that_is_none_is_refused_by_its_flag(value: str) -> None:
    done = CliRunner().invoke(app, ["cluster", "e-1", "-k", value])
    assert done.exit_code == 2
    assert "--clusters" in done.output
    assert "auto" in done.output


@pytest.mark.parametrize(
    ("words", "advice"),
    [((), r"`-k 50`, `-k auto` or `--over 1.5`"), (("-k", "5", "--over", "2"), "give only one of them")],
)
def test_the_number_of_clusters_is_asked_for_before_anything_is_sent(words: tuple[str, ...], advice: str) -> None:
    with pytest.raises(InvalidRequest, match=advice):
        CliRunner().invoke(app, ["cluster", "e-1", *words], catch_exceptions=False, standalone_mode=False)


def test_a_label_file_is_looked_for_in_the_working_directory_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from shoal.cli.jobs import parse_labels

    (tmp_path / "here.csv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_labels("here.csv:p:l") == {
        "file": str(tmp_path / "here.csv"),
        "path_column": "p",
        "label_column": "l",
    }
    assert parse_labels("~/here.csv") == {"file": str(tmp_path / "here.csv")}
    assert parse_labels("below/the/root.csv") == {"file": "below/the/root.csv"}


def test_a_level_of_folders_is_said_as_the_flag_takes_it() -> None:
    said = in_flags(InvalidRequest('Send `images.labels`: {"folder_level": 0} takes each, "none" none.'), EXTRACT)
    assert said.detail == "Give `--labels`: `folder:0` takes each, `none` none."


def test_a_field_with_its_value_is_a_flag_with_its_value() -> None:
    said = in_flags(InvalidRequest("`reduce`: `auto` compares options: leave `method`: `leiden` out."), CLUSTER)
    assert said.detail == "`--reduce auto` compares options: leave `--method leiden` out."
    assert in_flags(InvalidRequest("`embeddings.train`: `x`"), CLUSTER).detail == "`EMBEDDINGS`: `x`"
    said = in_flags(refused(("", "`heads.entropy` needs `method`: `turtle`")), CLUSTER)
    assert said.detail == "`--head entropy=…` needs `--method turtle`"
