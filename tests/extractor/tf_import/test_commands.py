"""The commands as people type them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from extractor.__main__ import main


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    monkeypatch.setenv("SHOAL_MODELS", str(path))
    return path


def test_import_says_what_came_of_it(
    builders: ModuleType, tmp_path: Path, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builders.bigbigan_hub(tmp_path / "source", size=32)
    status = main(["import-tf", "mine", str(tmp_path / "source"), "--output", "z_mean", "--mean", "0", "0", "0"])
    out = capfd.readouterr().out
    assert status == 0, out
    assert "z_mean of encode (tf1-hub), 8-d, 32 px uint8" in out
    assert (models / "mine" / "1" / "saved_model.pb").is_file()


def test_import_says_what_is_wrong_in_one_line(
    builders: ModuleType, tmp_path: Path, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builders.bigbigan_hub(tmp_path / "source", size=32)
    assert main(["import-tf", "mine", str(tmp_path / "source"), "--signature", "embed"]) == 1
    assert capfd.readouterr().err == "The model has no signature 'embed'. Its signatures: default, encode, generate.\n"


def test_a_worker_that_could_run_no_model_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TF_SERVING_URL", raising=False)
    monkeypatch.setattr("extractor.__main__.find_spec", lambda _name: None)
    assert main(["worker", "--backend", "tfserving"]) == 1
    assert capsys.readouterr().err == "TensorFlow is not installed: install `shoal[tf]`, or set TF_SERVING_URL.\n"
