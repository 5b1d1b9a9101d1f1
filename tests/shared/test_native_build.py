"""Compiling for several instruction sets: what works is kept, and the reason is given when nothing does."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from shoal.native.build import BuildFailed, Kernel

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="libraries are compiled for x86-64 only")

COMPILER = """#!/bin/sh
for word; do
  case "$word" in -DBAD*) echo "no $word" >&2; exit 1;; esac
  [ "$last" = -o ] && out=$word
  last=$word
done
echo "$@" > "$out"
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source file, and a compiler that refuses some options."""
    (tmp_path / "src").mkdir()
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    return tmp_path / "src" / "kernel.cpp"


def test_what_the_compiler_knows_is_built_in_its_order(source: Path, tmp_path: Path) -> None:
    kernel = Kernel(source, {"best": ("-DBEST",), "odd": ("-DBAD",), "plain": ("-DPLAIN",)})
    assert kernel.build() == [tmp_path / "_kernel_best.so", tmp_path / "_kernel_plain.so"]
    assert "-DPLAIN" in (tmp_path / "_kernel_plain.so").read_text()
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == [
        "_kernel_best.so",
        "_kernel_plain.so",
        "compiler",
    ]


def test_the_first_reason_is_given_when_nothing_is_built(source: Path) -> None:
    with pytest.raises(BuildFailed, match="no -DBAD1"):
        Kernel(source, {"a": ("-DBAD1",), "b": ("-DBAD2",)}).build()
