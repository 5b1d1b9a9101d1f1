"""The flags of clusterings by heads and over several models."""

from __future__ import annotations

import pytest
from shoal.cli import app
from typer.testing import CliRunner

from tests.shared.client.conftest import Script
from tests.shared.client.test_where_flags import JOB


def sent_by(script: Script, words: list[str]) -> dict[str, object]:
    script.answers = [(202, JOB)]
    done = CliRunner().invoke(app, [*words, "--no-wait"])
    assert done.exit_code == 0, done.output
    body: dict[str, object] = [each for each in script.seen if each[0] == "POST"][-1][3]
    return body


@pytest.fixture(autouse=True)
def services(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOAL_CLUSTERER_URL", "SHOAL_EXTRACTOR_URL"):
        monkeypatch.setenv(name, script.url)


def test_a_head_and_further_models_become_fields(script: Script) -> None:
    options = [
        "--head",
        "steps=2000",
        "--head",
        "learning_rate=1e-2",
        "--head",
        "early_stop=false",
        "--head",
        "entropy=auto",
    ]
    body = sent_by(script, ["cluster", "e1", "-k", "5", "--method", "turtle", "--space", "e2", *options])
    assert body["method"] == "turtle"
    assert body["heads"] == {"steps": 2000, "learning_rate": 0.01, "early_stop": False, "entropy": "auto"}
    assert body["spaces"] == ["e2"]
    body = sent_by(script, ["cluster", "e1", "-k", "5", "--score", "v1", "--space", "e2:v2"])
    assert body["spaces"] == [{"train": "e2", "score": ["v2"]}]
    assert not {"method", "heads"} & set(body)


def test_methods_are_an_axis_of_a_sweep(script: Script) -> None:
    body = sent_by(script, ["sweep", "e1", "-k", "5", "--again", "--method", "kmeans,temi", "--head", "heads=4"])
    assert (body["method"], body["heads"]) == (["kmeans", "temi"], {"heads": 4})


def test_further_models_of_rows_to_assign(script: Script) -> None:
    body = sent_by(script, ["assign", "c-1", "--embeddings", "e1", "--space", "e2"])
    assert body["spaces"] == ["e2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["steps"], "NAME=VALUE"),
        (["stepz=3"], "'stepz=3' names no option: give one of steps, batch_rows, learning_rate"),
        (["steps=3", "steps=4"], "`--head steps` is there twice"),
    ],
)
def test_an_option_that_is_not_valid_is_refused(options: list[str], message: str) -> None:
    flags = [word for each in options for word in ("--head", each)]
    refused = CliRunner().invoke(app, ["cluster", "e1", "-k", "5", "--method", "turtle", *flags])
    assert refused.exit_code == 2
    said = " ".join(refused.output.replace("│", " ").split())
    assert message in said
    assert "Invalid value for --head" in said
