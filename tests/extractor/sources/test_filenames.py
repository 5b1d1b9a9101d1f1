"""Names that are not UTF-8 stand in the listing as text, distinct, and lead back to their files."""

from __future__ import annotations

import os

from extractor.sources.filenames import candidates, is_text, listed_names
from hypothesis import given
from hypothesis import strategies as st

_NAME = st.lists(st.sampled_from([b"a", b"\\", b"udcff", b"xff", b"\xff", b"\xfe", "é".encode(), b"\xed\xa0\x80"])).map(
    lambda parts: os.fsdecode(b"".join(parts) or b"-")
)


@given(st.lists(_NAME, unique=True, max_size=8))
def test_names_become_distinct_text_and_text_stays(paths: list[str]) -> None:
    names = listed_names(paths)
    assert len(set(names)) == len(paths)
    assert all(is_text(name) for name in names)
    assert [name for name, path in zip(names, paths, strict=True) if is_text(path)] == list(filter(is_text, paths))


@given(_NAME)
def test_a_name_leads_back_to_its_file(path: str) -> None:
    assert path in candidates(listed_names([path])[0])
