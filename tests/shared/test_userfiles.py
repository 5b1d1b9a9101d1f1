"""Whatever a request names: it is read within limits, or refused at once with the reason."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shoal.errors import FileUnusable, LabelsInvalid
from shoal.userfiles import UserFile, text_encoding

READERS: list[Callable[[UserFile], Any]] = [
    UserFile.read_bytes,
    UserFile.read_text,
    UserFile.head,
    lambda file: _lines(file),
]


def _lines(file: UserFile, **limits: int) -> list[str]:
    with file.lines(**limits, deadline=None) as lines:
        return list(lines)


def write(path: Path, content: bytes) -> UserFile:
    path.write_bytes(content)
    return UserFile(path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["named pipe", "folder", "socket", "device"])
@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str, read: Callable[..., Any]) -> None:
    path = tmp_path / "x"
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    with pytest.raises(FileUnusable, match=f"it is a {kind}, not a regular file"):
        read(UserFile(path))


def test_a_pipe_that_takes_the_files_place_in_between_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "x")
    regular = tmp_path / "regular"
    regular.write_bytes(b"")
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat(regular))  # noqa: PTH116
    with pytest.raises(FileUnusable, match="named pipe"):
        UserFile(tmp_path / "x").read_bytes()


@pytest.mark.parametrize("read", READERS)
def test_a_refusal_calls_the_file_as_the_request_does(tmp_path: Path, read: Callable[..., Any]) -> None:
    file = UserFile(tmp_path / "x", "The class map 'x'", LabelsInvalid, {"field": "class_map.file"})
    with pytest.raises(LabelsInvalid) as refused:
        read(file)
    assert refused.value.detail == "The class map 'x' cannot be read: No such file or directory."
    assert refused.value.members == {"field": "class_map.file"}
    os.mkfifo(tmp_path / "x")
    with pytest.raises(LabelsInvalid, match="named pipe") as refused:
        read(file)
    assert str(tmp_path) not in str(refused.value)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    file = write(tmp_path / "x", b"")
    os.truncate(file.path, 1 << 40)
    for read in (UserFile.read_bytes, UserFile.read_text, _lines):
        with pytest.raises(FileUnusable, match=r"has 1,099,511,627,776 bytes, and the limit is 67,108,864"):
            read(file)
    assert file.head(10) == bytes(10)


def test_a_file_that_does_not_say_how_large_it_is_is_read_up_to_the_limit() -> None:
    file = UserFile(Path("/proc/self/status"))
    assert file.path.stat().st_size == 0
    with pytest.raises(FileUnusable, match="too large"):
        file.read_bytes(max_bytes=5)


def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "x", b"ab\n" + b"c" * 50)
    assert _lines(file, max_line=50) == ["ab\n", "c" * 50]
    with pytest.raises(FileUnusable, match=r"more than 49 characters in line 2"):
        _lines(file, max_line=49)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"], ids=lambda name: name
)
def test_text_is_read_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    text = "path,label\nä.png,日本\nrest of it,in plain letters\n"
    file = write(tmp_path / "x", text.encode(encoding))
    assert file.read_text() == text
    assert _lines(file) == text.splitlines(keepends=True)


def test_other_encodings_are_named_with_the_line(tmp_path: Path) -> None:
    file = write(tmp_path / "x", "a\nb\nKäse\n".encode("latin-1"))
    with pytest.raises(FileUnusable, match=r"not UTF-8 text.*Save it as UTF-8"):
        file.read_text()
    with pytest.raises(FileUnusable, match=r"not UTF-8 text.*Save it as UTF-8") as refused:
        _lines(file)
    assert refused.value.members["line"] <= 3


def test_ends_of_lines_are_those_of_any_system(tmp_path: Path) -> None:
    assert _lines(write(tmp_path / "x", b"a\r\nb\rc\n\nd")) == ["a\r\n", "b\r", "c\n", "\n", "d"]
    assert _lines(write(tmp_path / "x", b"")) == []
    assert text_encoding(b"") == "utf-8"
