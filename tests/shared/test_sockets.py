"""A unix socket gets a folder whose path leaves room for it."""

from __future__ import annotations

import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from shoal import sockets
from shoal.errors import StackError
from shoal.sockets import MAX_SOCKET_PATH, remove_socket_folder, socket_folder

NAME = "some.sock"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="shoal-test-", dir="/tmp") as folder:
        yield Path(folder).resolve()


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A folder whose path leaves no room for a socket."""
    folder = tmp_path / ("x" * MAX_SOCKET_PATH)
    folder.mkdir()
    return folder


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def test_a_short_folder_is_used_as_it_is(short: Path) -> None:
    assert socket_folder(short, NAME) == short
    assert list(short.iterdir()) == []


def test_a_path_is_used_up_to_its_last_byte(short: Path) -> None:
    longest = short / ("x" * (MAX_SOCKET_PATH - len(f"{short}//{NAME}")))
    longest.mkdir()
    assert socket_folder(longest, NAME) == longest
    bind(longest / NAME)
    made = socket_folder(longest, f"{NAME}x")
    assert made != longest
    remove_socket_folder(made, NAME)


def test_a_deep_folder_is_replaced_by_one_that_only_the_user_enters(
    short: Path, deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    folder = socket_folder(deep, NAME)
    assert folder.parent == short
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    bind(folder / NAME)
    remove_socket_folder(folder, NAME)
    assert not folder.exists()


@pytest.mark.parametrize("missing", [False, True])
def test_a_temporary_folder_of_no_use_is_passed_over(
    deep: Path, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(deep / "missing" if missing else deep))
    folder = socket_folder(deep, NAME)
    assert folder.parent == Path("/tmp")
    bind(folder / NAME)
    remove_socket_folder(folder, NAME)
    assert list(deep.iterdir()) == []


def test_the_last_choice_is_the_user_s_runtime_folder(short: Path, deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    assert list(sockets._temporary_folders())[1:] == [Path("/tmp"), short]
    monkeypatch.setattr(sockets, "_temporary_folders", lambda: iter([deep / "missing", deep, short]))
    folder = socket_folder(deep, NAME)
    assert folder.parent == short
    remove_socket_folder(folder, NAME)


def test_an_error_names_the_folders_and_the_way_out(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_temporary_folders", lambda: iter([deep]))
    with pytest.raises(StackError, match="may have 103 bytes") as raised:
        socket_folder(deep, NAME)
    assert str(deep) in raised.value.detail
    assert "Set TMPDIR" in raised.value.detail
    assert list(deep.iterdir()) == []


def test_only_a_folder_that_was_made_for_a_socket_is_removed(short: Path) -> None:
    other = short / "other"
    other.mkdir()
    kept = short / "shoal-kept"
    kept.mkdir()
    (kept / "file").touch()
    link = short / "shoal-link"
    link.symlink_to(other)
    for folder in (other, kept, link):
        remove_socket_folder(folder, NAME)
    assert other.is_dir()
    assert (kept / "file").exists()
    assert link.is_symlink()
    shutil.rmtree(kept)
