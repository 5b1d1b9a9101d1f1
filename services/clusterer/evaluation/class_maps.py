"""Maps between the classes of the train set and those of a scored set that has others.

A map is many to many: a class of ObjectNet may stand for three of ImageNet. A row of the scored set is right when the
class of its cluster and its own class are a pair. Rows whose class is in no pair are neither right nor wrong: they are
counted, and left out of every comparison with labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from shoal.errors import LabelsInvalid
from shoal.labels import read_csv_columns
from shoal.schemas import ClassMap
from shoal.userfiles import UserFile, confine

from clusterer.evaluation.contingency import ClassPairs

Pair = tuple[str, str]
"""A label of the train set and the label of the scored set that matches it."""

OBJECTNET_TO_IMAGENET = "objectnet_to_imagenet_1k.json"
FOLDER_TO_OBJECTNET = "folder_to_objectnet_label.json"
PYTORCH_TO_2012 = "pytorch_to_imagenet_2012_id.json"
LABELS_2012 = "imagenet_to_label_2012_v2"
IMAGENET_CLASSES = 1000
MOST_NAMED = 1000
COLUMNS = ("train_label", "scored_label")
MOST_BYTES = 4 << 20
"""Largest file of a class map, in bytes. The API reads it whole; the pairs of ImageNet's 21,841 classes are 1 MB."""
_MOST_DIGITS = 9


@dataclass(frozen=True)
class MappedClasses:
    """The classes of a scored set under a class map.

    Attributes
    ----------
    vocabulary
        The sorted labels of the set that are in a pair; classes are positions in it.
    pairs
        Which class of the train set is right for which of these.
    unmapped
        The labels of the set that are in no pair.
    ignored
        Pairs of the file with a label that one of the two sets does not have.
    request
        As it was sent.
    sha256
        Of the pairs that are used.
    """

    vocabulary: tuple[str, ...]
    pairs: ClassPairs
    unmapped: tuple[str, ...]
    ignored: int
    request: ClassMap
    sha256: str

    def record(self) -> dict[str, Any]:
        """For spec.json."""
        return {
            "request": self.request.model_dump(mode="json"),
            "sha256": self.sha256,
            "pairs": len(self.pairs.codes),
            "ignored_pairs": self.ignored,
            "classes": list(self.vocabulary),
            "unmapped_classes": len(self.unmapped),
            "unmapped": list(self.unmapped[:MOST_NAMED]),
        }


def read_class_map(
    root: Path,
    request: ClassMap,
    vocabulary: Sequence[str],
    train_labels: AbstractSet[str],
    scored_labels: AbstractSet[str],
    called: tuple[str, str] = ("the train set", "the scored set"),
) -> MappedClasses:
    """Read the map that a request names.

    Parameters
    ----------
    root
        The data root.
    vocabulary
        The labels that train classes are positions in.
    train_labels, scored_labels
        The labels of the two sets.
    called
        Names of the two sets in errors.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        The file is not below ``root``.
    LabelsInvalid
        The file cannot be read, no pair has a label of each set, or a set has no labels.
    """
    for labels, name in zip((train_labels, scored_labels), called, strict=True):
        if not labels:
            raise LabelsInvalid(
                f"`class_map` needs labels, but {name} has no labels: embed its images with `labels`, or omit "
                "`class_map`.",
                field="class_map",
            )
    found = _read_pairs(root, request, train_labels)
    pairs = sorted((train, scored) for train, scored in found if train in train_labels and scored in scored_labels)
    if not pairs:
        raise LabelsInvalid(
            f"No pair of the class map {request.file!r} has labels that both sets contain: {called[0]} has labels "
            f"such as {_some(train_labels)}, {called[1]} such as {_some(scored_labels)}. Spell the labels as the sets "
            "do.",
            field="class_map",
        )
    return _mapped(pairs, len(found) - len(pairs), request, vocabulary, scored_labels)


def _mapped(
    pairs: list[Pair], ignored: int, request: ClassMap, vocabulary: Sequence[str], scored_labels: AbstractSet[str]
) -> MappedClasses:
    names = tuple(sorted({scored for _, scored in pairs}))
    train_at = {label: position for position, label in enumerate(vocabulary)}
    scored_at = {label: position for position, label in enumerate(names)}
    return MappedClasses(
        vocabulary=names,
        pairs=ClassPairs.of(
            np.array([train_at[train] for train, _ in pairs], dtype=np.int64),
            np.array([scored_at[scored] for _, scored in pairs], dtype=np.int64),
            len(names),
        ),
        unmapped=tuple(sorted(scored_labels - set(names))),
        ignored=ignored,
        request=request,
        sha256=hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest(),
    )


def _read_pairs(root: Path, request: ClassMap, train_labels: AbstractSet[str]) -> set[Pair]:
    path, base = confine(root, request.file, "class_map.file"), root.resolve()
    if request.format == "csv":
        return read_csv_pairs(path, base)
    index = confine(root, request.class_index, "class_map.class_index") if request.class_index else None
    return read_objectnet_pairs(path, index, train_labels, base)


def read_csv_pairs(path: Path, root: Path | None = None) -> set[Pair]:
    """The pairs of a CSV file with the columns ``train_label`` and ``scored_label``; other columns are ignored.

    Labels are cleaned as those of label files are, so that ``1.0`` is ``1``.

    Parameters
    ----------
    root
        Where the file must lie, with symlinks resolved.

    Raises
    ------
    LabelsInvalid
        The columns are missing, or a row lacks one of the two labels.
    """
    file = _map_file(path, root)
    pairs: set[Pair] = set()
    for line, (train, scored) in read_csv_columns(file, COLUMNS, MOST_BYTES):
        if train is None or scored is None:
            raise file.invalid(
                f"lacks train_label or scored_label in line {line}. Remove the line if the class has no counterpart.",
                line=line,
            )
        pairs.add((train, scored))
    return pairs


def read_objectnet_pairs(
    folder: Path, class_index: Path | None, train_labels: Collection[str], root: Path | None = None
) -> set[Pair]:
    """The pairs of ImageNet's and ObjectNet's classes from the folder of mappings that ObjectNet comes with.

    A class of ObjectNet names its ImageNet classes by their descriptions; these are the lines of
    ``imagenet_to_label_2012_v2`` in the order of ILSVRC 2012's ids; ``pytorch_to_imagenet_2012_id.json`` gives the id
    of each position among the sorted WordNet ids, the names of ImageNet's folders. ObjectNet's side of a pair is both
    the folder and the class's name, whichever the embeddings are labelled with.

    Parameters
    ----------
    class_index
        ImageNet's class index; see `read_class_index`. None derives it from ``train_labels``.
    train_labels
        Labels of the train set.
    root
        Where the files must lie, with symlinks resolved.

    Raises
    ------
    LabelsInvalid
        A file is missing or has another content.
    """
    to_imagenet = _string_values(_map_file(folder / OBJECTNET_TO_IMAGENET, root))
    label_of_folder = _string_values(_map_file(folder / FOLDER_TO_OBJECTNET, root))
    position_of_id = _numbers(_map_file(folder / PYTORCH_TO_2012, root))
    lines = _map_file(folder / LABELS_2012, root).read_text(MOST_BYTES).splitlines()
    id_of_name = {line.strip(): number for number, line in enumerate(lines) if line.strip()}
    names_at = read_class_index(class_index, root) if class_index else _names_of(train_labels)
    folders: dict[str, list[str]] = {}
    for name, label in label_of_folder.items():
        folders.setdefault(label, []).append(name)
    pairs: set[Pair] = set()
    for label, descriptions in to_imagenet.items():
        for description in descriptions.split(";"):
            number = id_of_name.get(description.strip())
            if number is None or number not in position_of_id:
                raise LabelsInvalid(
                    f"{OBJECTNET_TO_IMAGENET} maps {label!r} to {description.strip()!r}, which {LABELS_2012} or "
                    f"{PYTORCH_TO_2012} does not contain.",
                    field="class_map.file",
                )
            for name in names_at.get(position_of_id[number], ()):
                pairs.update((name, scored) for scored in (label, *folders.get(label, ())))
    return pairs


def read_class_index(path: Path, root: Path | None = None) -> dict[int, tuple[str, ...]]:
    """The labels of each ImageNet class, by its position among the sorted WordNet ids.

    Parameters
    ----------
    path
        ``imagenet_class_index.json`` (``{"0": ["n01440764", "tench"], …}``), or text with one line per class that
        starts with its WordNet id, such as ``LOC_synset_mapping.txt``.
    root
        Where it must lie, with symlinks resolved.

    Returns
    -------
    The WordNet id and the position as text for each position.
    """
    file = _map_file(path, root, "class_map.class_index")
    if path.suffix.lower() == ".json":
        index = _json_object(file)
        if not all(_is_number(key) and _starts_with_text(value) for key, value in index.items()):
            raise file.invalid('is not an ImageNet class index. Expected: {"0": ["n01440764", "tench"], …}.')
        return {int(key): (value[0], key) for key, value in index.items()}
    ids = sorted(line.split()[0] for line in file.read_text(MOST_BYTES).splitlines() if line.strip())
    return {position: (name, str(position)) for position, name in enumerate(ids)}


def _names_of(train_labels: Collection[str]) -> dict[int, tuple[str, ...]]:
    if train_labels and all(label.isdecimal() for label in train_labels):
        return {int(label): (label,) for label in train_labels}
    if len(train_labels) == IMAGENET_CLASSES:
        return {position: (label,) for position, label in enumerate(sorted(train_labels))}
    raise LabelsInvalid(
        f"The train set has {len(train_labels)} labels, not ImageNet's {IMAGENET_CLASSES}, so their positions are "
        "unknown: set `class_map.class_index` to imagenet_class_index.json or LOC_synset_mapping.txt.",
        field="class_map.class_index",
    )


def _map_file(path: Path, root: Path | None, field: str = "class_map.file") -> UserFile:
    return UserFile(path, path.name, LabelsInvalid, {"field": field}, root)


def _json_object(file: UserFile) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise file.invalid(f"cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise file.invalid("is not a JSON object. Use the file as it is published.")
    return document


def _string_values(file: UserFile) -> dict[str, str]:
    document = _json_object(file)
    if not all(isinstance(value, str) for value in document.values()):
        raise file.invalid("must map text to text. Use the file as it is published.")
    return document


def _numbers(file: UserFile) -> dict[int, int]:
    """The keys of an object of numbers by their values."""
    document = _json_object(file)
    if not all(_is_number(key) and _is_number(value) for key, value in document.items()):
        raise file.invalid("must map numbers to numbers. Use the file as it is published.")
    return {int(value): int(key) for key, value in document.items()}


def _is_number(value: object) -> bool:
    """Whether it is a position, as a number or as text."""
    text = str(value) if isinstance(value, str | int) else ""
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def _starts_with_text(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def _some(labels: AbstractSet[str]) -> str:
    return ", ".join(repr(label) for label in sorted(labels)[:3])
