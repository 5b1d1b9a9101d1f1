"""Labels in files beside the images of an archive, as WebDataset and img2dataset write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from shoal.labels import clean_label
from shoal.labels.columns import text_of

_LONGEST = {"cls": 1 << 10, "json": 1 << 20, "txt": 1 << 12}
"""Kinds of files and how many bytes of them are read."""
_LABEL_KEYS = ("label", "class", "cls", "class_name", "label_name", "category", "target")
_LONGEST_LABEL = 100


def key_of(archive: str, name: str) -> str:
    """What the files of one sample share: the name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return f"{archive}/{folder}{slash}{last.partition('.')[0]}"


class Sidecars:
    """Labels by sample: of ``.cls`` files, else of ``.json`` files with a ``label``, else of ``.txt`` files.

    Text that repeats is a label; other text is a caption, as img2dataset writes it, and no label.
    """

    def __init__(self) -> None:
        self._labels: dict[str, dict[str, str]] = {kind: {} for kind in _LONGEST}
        self._captions = False

    def add(self, archive: str, name: str, read: Callable[[int], bytes]) -> bool:
        """Whether ``name`` is a file beside an image, which is then read."""
        kind = name.rpartition(".")[2].lower()
        if kind not in _LONGEST:
            return False
        if kind == "txt" and self._captions:
            return True
        label = _label(kind, read(_LONGEST[kind] + 1))
        if label is not None and kind == "txt" and (len(label) > _LONGEST_LABEL or "\n" in label):
            self._captions = True
            self._labels["txt"].clear()
        elif label is not None:
            self._labels[kind][key_of(archive, name)] = label
        return True

    def labels(self, keys: Sequence[str]) -> tuple[list[str | None], str | None]:
        """The label of each sample, and what they come from; None where there are no labels."""
        for kind, found in self._labels.items():
            labels = [found.get(key) for key in keys]
            given = [label for label in labels if label is not None]
            if given and (kind != "txt" or 2 * len(set(given)) <= len(given)):
                return labels, f"the `.{kind}` files beside the images"
        return [None] * len(keys), None


def _label(kind: str, content: bytes) -> str | None:
    if len(content) > _LONGEST[kind]:
        return None if kind != "txt" else "\n"
    try:
        text = content.decode("utf-8-sig")
        if kind != "json":
            return clean_label(text)
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    for key in _LABEL_KEYS:
        try:
            label = clean_label(text_of(document.get(key)))
        except TypeError:
            continue
        if label is not None:
            return label
    return None
