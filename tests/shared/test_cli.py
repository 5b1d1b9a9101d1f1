"""The command line's own logic; the commands themselves run against a real system in tests/contracts."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from shoal import cli, figures, host
from shoal.cli import demo, duplicates, jobs, models, output, quality, store
from shoal.errors import HostUnsupported, InvalidRequest, PathNotFound
from typer.testing import CliRunner


def test_a_model_is_a_name_or_a_json_object() -> None:
    assert jobs.parse_model("timm:resnet18") == "timm:resnet18"
    assert jobs.parse_model('{"architecture": "resnet18", "weights": "a.pth"}') == {
        "architecture": "resnet18",
        "weights": "a.pth",
    }
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        jobs.parse_model("{architecture: resnet18}")


def test_labels_are_a_word_or_a_file() -> None:
    assert jobs.parse_labels("none") == "none"
    assert jobs.parse_labels("folder:1") == {"folder_level": 1}
    assert jobs.parse_labels('{"folder_level": 0}') == {"folder_level": 0}
    assert jobs.parse_labels("l.csv") == {"file": "l.csv"}
    assert jobs.parse_labels("a:b.csv:p:l") == {"file": "a:b.csv", "path_column": "p", "label_column": "l"}
    assert jobs.parse_labels("l.csv:p:l") == {"file": "l.csv", "path_column": "p", "label_column": "l"}
    with pytest.raises(InvalidRequest):
        jobs.parse_labels("l.csv:p")


def test_durations_and_numbers_read_well() -> None:
    assert [output.duration(seconds) for seconds in (4.2, 75, 3700)] == ["4 s", "1 min 15 s", "1 h 01 min"]
    assert [figures.number(0.5, 0.01), figures.number(12345.6), figures.number(None)] == ["0.500 ± 0.010", "12,346", ""]


def _fake_tools(monkeypatch: pytest.MonkeyPatch, tools: set[str], files: dict[str, bytes]) -> None:
    def run(words: list[str], cwd: Path, **options: Any) -> None:
        if words[0] not in tools:
            raise subprocess.CalledProcessError(1, words, stderr="noise\nE: Unable to locate package")
        for name, content in files.items():
            (cwd / name).parent.mkdir(parents=True, exist_ok=True)
            (cwd / name).write_bytes(content)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")


def test_stamps_of_equal_names_are_all_kept_and_variants_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    png = (tmp_path / "a.png").read_bytes()
    root = "files/usr/share/tuxpaint/stamps"
    files = {"package.deb": b""}
    files.update({f"{root}/{folder}/one.png": png for folder in demo.STAMPS.values()})
    money = ("dollar/1.png", "euro/1.png", "euro/1_mirror.png", "cartoon/1.png")
    files.update({f"{root}/symbols/money/{name}": png for name in money})
    _fake_tools(monkeypatch, {"apt-get", "dpkg-deb"}, files)
    folder = demo.fetch_images(tmp_path / "images", "stamps", lambda text: None)
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.STAMPS)
    assert len(list((folder / "money").iterdir())) == 3


def test_stamps_are_fetched_where_the_lists_of_packages_are_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listed: set[str] = set()

    def run(words: list[str], cwd: Path, **options: Any) -> None:
        lists = next((word for word in words if word.startswith("Dir::State::lists=")), "the machine's")
        if words[-1] == "update":
            listed.add(lists)
            raise subprocess.CalledProcessError(100, words, stderr="E: another source does not answer")
        if words[0] == "apt-get" and lists not in listed:
            raise subprocess.CalledProcessError(100, words, stderr="E: Unable to locate package")
        for folder in demo.STAMPS.values():
            (cwd / "files/usr/share/tuxpaint/stamps" / folder).mkdir(parents=True, exist_ok=True)
        (cwd / "package.deb").touch()

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    folder = demo.fetch_images(tmp_path / "images", "auto", lambda text: None)
    assert folder.name == "stamps"
    assert "the machine's" not in listed


def test_a_failed_fetch_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _fake_tools(monkeypatch, set(), {})
    said: list[str] = []
    with pytest.raises(PathNotFound, match=r"stamps: E: Unable to locate package; emoji: .*shoal run FOLDER"):
        demo.fetch_images(tmp_path, "auto", said.append)
    assert said[1] == "Cannot download stamps: E: Unable to locate package"
    assert not (tmp_path / "stamps").exists()


def models_without_a_service(*options: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SHOAL_EXTRACTOR_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "shoal.cli", "models", *options]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True)


def test_the_models_are_listed_without_a_service_too(tmp_path: Path) -> None:
    (tmp_path / "InfoMin_800.pth").touch()
    lines = {
        line.split()[0]: line
        for line in models_without_a_service("list", "--models", str(tmp_path)).stdout.splitlines()
    }
    assert " ready " in lines["resnet50_infomin"]
    assert "2048" in lines["resnet50_infomin"]
    assert "InfoMin, ResNet-50" in lines["resnet50_infomin"]
    assert models_without_a_service().stdout.count("downloadable") > 20


def test_a_narrow_terminal_shows_names_whole_and_leaves_the_description_out() -> None:
    row = {"name": "a" * 40, "readiness": "ready", "description": "long " * 20, "licence": "[MIT]"}
    for width, described in ((80, False), (140, True)):
        console = Console(width=width)
        with console.capture() as captured:
            console.print(models.models_table([row], width))
        shown = captured.get()
        assert "a" * 40 in shown
        assert "[MIT]" in shown
        assert ("long" in shown) == described
        assert max(map(len, shown.splitlines())) <= width


def test_a_model_that_cannot_run_here_is_marked_with_what_it_needs() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "a", "readiness": "downloadable", "needs": "shoal[tf]"},
        {"name": "b", "readiness": "downloadable", "needs": None},
    ]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(models.models_table(rows, 100))
    first, second = captured.get().splitlines()[1:]
    assert "needs shoal[tf]" in first
    assert "downloadable" in second


def test_metrics_print_as_a_table_and_are_json_all_the_same() -> None:
    entry = {"ari": 0.25, "accuracy": {"hungarian": {"train": 0.5, "scored": 0.6}}, "chance": {"accuracy": 0.1}}
    document = {"scored": {"e-1": {"mean": entry, "std": {"ari": 0.01}, "seeds": {str(n): entry for n in range(50)}}}}
    metrics = figures.Metrics(document)
    assert str(metrics).splitlines() == [
        "metric               e-1            chance",
        "Accuracy, Hungarian  0.500          0.100",
        "ARI                  0.250 ± 0.010",
    ]
    assert json.loads(json.dumps(metrics)) == document


def test_services_say_in_one_sentence_that_they_need_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(HostUnsupported, match=r"run on Linux only; this is darwin.*docker"):
        host.require_linux()


def test_every_command_is_found_and_says_what_it_does() -> None:
    runner = CliRunner()
    listed = runner.invoke(cli.app, ["--help"], terminal_width=200)
    for name in cli.COMMANDS:
        assert f" {name} " in listed.output
        said = runner.invoke(cli.app, [name, "--help"])
        assert said.exit_code == 0, said.output
        assert "completion" not in said.output
    assert runner.invoke(cli.app, ["nothing"]).exit_code == 2


@pytest.mark.parametrize("words", [*([name] for name in cli.COMMANDS), ["keys", "create"], ["models", "import-tf"], []])
def test_help_names_values_in_capitals_and_switches_without_a_type(words: list[str]) -> None:
    said = CliRunner().invoke(cli.app, [*words, "--help"], terminal_width=200).output
    assert not re.search(r"<(bool|int|str|path|float|list)", said), said
    usage = next(line for line in said.splitlines() if "Usage:" in line)
    assert re.findall(r"[{\[]([^}\]]+)", usage)[0] == "OPTIONS"
    assert all(name == name.upper() or "|" in name for name in re.findall(r"[{\[]([^}\]]+)", usage)), usage


def test_a_value_is_named_after_its_option() -> None:
    said = CliRunner().invoke(cli.app, ["cluster", "--help"], terminal_width=200).output
    for words in (
        "--memory-limit +MEMORY_LIMIT ",
        "--clusters +-k +K.auto ",
        "--seed +SEED ",
        "--whiten +--no-whiten +Wh",
    ):
        assert re.search(words, said), words


def test_a_command_loads_no_library_of_the_others() -> None:
    words = (
        "import sys; from shoal.cli import main; sys.argv[1:] = ['--version']\ntry: main()\nexcept SystemExit: pass\n"
    )
    words += "print({'numpy', 'pyarrow', 'redis', 'httpx', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_commands_that_ask_a_service_load_no_library_of_the_store() -> None:
    words = (
        "import sys; from shoal.cli import assign, compare, duplicates, export, jobs, names, quality, search, sweep\n"
    )
    words += "print({'numpy', 'pyarrow', 'redis'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_tables_show_paths_with_brackets_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    monkeypatch.setattr(output, "out", console)
    row = {
        "row": 1,
        "similarity": 1.0,
        "keep": True,
        "copy": None,
        "reason": "first",
        "image_path": "[red]a[/]/b[/c].jpg",
    }
    output.print_table(duplicates.groups_table([{"group": 0, "size": 1, "rows": [row]}]))
    output.print_table(quality.found_table("outliers", [{**row, "distance": 0.5, "p": 0.1}], ("distance", "p")))
    text = console.export_text()
    assert text.count("[red]a[/]/b[/c].jpg") == 2


def test_a_clustering_is_shown_with_what_made_it_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, Any] = {"k": 4, "n": 90, "engine": "graph", "method": "leiden", "seeds": [0], "metrics": {}}
    metrics = {"scored": {"e-1": {"mean": {"ari": 1.0}, "std": {}}}}
    by_leiden = store.clustering_table("c-1", {**facts, "reduce": {"method": "umap"}}, metrics)
    assert by_leiden.title == "c-1: k = 4, n = 90, leiden after umap, seeds [0]"
    assert (
        store.clustering_table("c-1", {**facts, "method": None}, metrics).title
        == "c-1: k = 4, n = 90, graph, seeds [0]"
    )
    monkeypatch.setattr(
        store, "local", lambda *_: ({**facts, "picked": {"why": "Of 4 options, none is best."}}, by_leiden)
    )
    shown = CliRunner().invoke(cli.app, ["show", "c-1"])
    assert shown.exit_code == 0
    assert "Of 4 options, none is best." in shown.output
