"""The socket of a host: for its user alone, one host at a time, and nothing of others is touched."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from extractor.online.listener import Listener
from shoal.errors import SocketUnusable


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="shoal-") as name:
        yield Path(name)


def test_it_listens_for_this_user_alone_and_goes_without_a_trace(folder: Path) -> None:
    path = folder / "online" / "torch.sock"
    with Listener(path), socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        client.connect(str(path))
    assert not path.exists()
    with Listener(path):
        assert path.exists()


def test_a_folder_that_others_may_enter_is_closed_to_them(folder: Path) -> None:
    folder.chmod(0o755)
    with Listener(folder / "torch.sock"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_other_files_keeps_its_mode(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "notes.txt").touch()
    with pytest.raises(SocketUnusable, match="has mode 0755 and holds other files"):
        Listener(folder / "torch.sock")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_the_socket_of_a_dead_host_is_taken_over(folder: Path) -> None:
    path = folder / "torch.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Listener(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_second_listener_names_the_process_of_the_first(folder: Path) -> None:
    path = folder / "torch.sock"
    with Listener(path), pytest.raises(SocketUnusable, match=f"Process {os.getpid()} already listens on {path}"):
        Listener(path)


def test_a_file_in_its_place_is_left_alone(folder: Path) -> None:
    path = folder / "torch.sock"
    path.write_text("mine")
    for _ in range(2):
        with pytest.raises(SocketUnusable, match="is not a socket"):
            Listener(path)
    assert path.read_text() == "mine"


def test_a_link_in_place_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "online").symlink_to(folder / "real")
    with pytest.raises(SocketUnusable, match="is not a folder"):
        Listener(folder / "online" / "torch.sock")
    assert list((folder / "real").iterdir()) == []


def test_a_file_in_place_of_the_folder_is_named(folder: Path) -> None:
    (folder / "online").write_text("mine")
    with pytest.raises(SocketUnusable, match="cannot be created"):
        Listener(folder / "online" / "torch.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    (folder / "online").mkdir()
    os.chown(folder / "online", 12345, -1)
    with pytest.raises(SocketUnusable, match="belongs to user 12345, not to user 0"):
        Listener(folder / "online" / "torch.sock")


def test_a_path_longer_than_the_kernel_takes_is_refused_before_anything_is_made(folder: Path) -> None:
    path = folder / ("ü" * 45) / "torch.sock"
    with pytest.raises(SocketUnusable, match="a socket's may have 107"):
        Listener(path)
    assert not path.parent.exists()
