"""Nothing that a request names lies outside the configured root."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shoal.errors import PathNotFound, PathOutsideRoot
from shoal.userfiles import below, confine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file.png").write_bytes(b"")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("x")
    (tmp_path / "root-beside").mkdir()
    return root


@pytest.mark.parametrize("relative", ["a", "a/b", "a/", "./a", "a//b", "a/file.png", "a/./b"])
def test_what_lies_in_the_root_is_found(root: Path, relative: str) -> None:
    assert confine(root, relative, "path") == (root / relative).resolve()


def test_a_dot_is_the_root_itself(root: Path) -> None:
    assert confine(root, ".", "path") == root.resolve()


@pytest.mark.parametrize(
    "relative",
    ["..", "../secret", "a/../../secret", "a/..", "/etc/passwd", "//etc", "..\\secret", "a\\b", "a\0b", "/"],
)
def test_what_leaves_the_root_is_refused_and_the_field_named(root: Path, relative: str) -> None:
    with pytest.raises(PathOutsideRoot, match=r"`images\.path`") as caught:
        confine(root, relative, "images.path")
    assert caught.value.members == {"field": "images.path"}


@pytest.mark.parametrize("target", ["../secret", "/etc", "../root-beside", "../root/../secret/file"])
def test_a_symlink_out_of_the_root_is_refused(root: Path, target: str) -> None:
    (root / "a" / "link").symlink_to(target if target.startswith("/") else Path("..") / target)
    with pytest.raises(PathOutsideRoot, match="symlink"):
        confine(root, "a/link", "path")


def test_a_symlink_that_stays_in_the_root_is_followed(root: Path) -> None:
    (root / "link").symlink_to("a/b")
    assert confine(root, "link", "path") == (root / "a" / "b").resolve()


def test_the_root_itself_may_be_a_symlink(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    assert confine(root.parent / "alias", "a", "path") == (root / "a").resolve()


@pytest.mark.parametrize("relative", ["missing", "a/missing/b", "a/file.png/b", "x" * 5000])
def test_what_is_not_there_is_not_found(root: Path, relative: str) -> None:
    with pytest.raises(PathNotFound, match="`path`"):
        confine(root, relative, "path")


def test_symlinks_in_a_circle_are_not_found(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    with pytest.raises(PathNotFound):
        confine(root, "one", "path")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "a", "b", "/", "//", "~", "secret", "", " ", "\\", "%2e%2e"]), max_size=6))
def test_whatever_is_asked_for_stays_in_the_root(root: Path, parts: list[str]) -> None:
    try:
        found = confine(root, "/".join(parts), "path")
    except (PathOutsideRoot, PathNotFound):
        return
    assert found.is_relative_to(root.resolve())


@pytest.mark.parametrize("written", ["photos", "./photos", "photos/", "photos//", "{root}/photos", "{root}/./photos/"])
def test_every_way_to_write_a_path_below_the_root_is_the_same_path(tmp_path: Path, written: str) -> None:
    (tmp_path / "photos").mkdir()
    assert below(tmp_path, written.format(root=tmp_path)) == "photos"
    assert confine(tmp_path, written.format(root=tmp_path), "images.path") == (tmp_path / "photos").resolve()


def test_an_absolute_path_is_taken_by_the_name_of_a_root_that_is_a_link_too(tmp_path: Path) -> None:
    (tmp_path / "disk" / "photos").mkdir(parents=True)
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    for base in ("disk", "root"):
        path = str(tmp_path / base / "photos")
        assert confine(tmp_path / "root", path, "images.path") == (tmp_path / "disk" / "photos").resolve()
    with pytest.raises(PathOutsideRoot, match="not below"):
        confine(tmp_path / "root", str(tmp_path / "disk2"), "images.path")
