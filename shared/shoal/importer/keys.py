"""Which array of a file is which: its embeddings, labels and paths, chosen by flags or by their usual names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from shoal.errors import ShoalError
from shoal.importer.formats import Array, Content
from shoal.labels import is_label_name, is_path_name

_EMBEDDINGS = (
    "embeddings",
    "embs",
    "features",
    "feats",
    "vectors",
    "embedding",
    "emb",
    "feature",
    "vector",
    "data",
    "x",
)
"""Names of embeddings, in order of preference."""
_LABELS = ("labs", "lab", "targets")
"""Names of labels beside the usual names of label columns."""
_PATHS = ("image_path", "image_paths", "path", "paths", "filenames", "file_names", "files", "keys", "urls", "names")
"""Names of paths, in order of preference, before the usual names of path columns."""
NUMBERS = ("width", "height", "bytes")


@dataclass(frozen=True)
class Keys:
    """The arrays that flags name.

    Attributes
    ----------
    embeddings
        ``--key``. None: the only array of floating-point rows, or that of a usual name.
    labels, paths
        ``--label-key``, ``--path-key``. None: the array of a usual name, if there is one. Empty: none.
    """

    embeddings: str | None = None
    labels: str | None = None
    paths: str | None = None


@dataclass(frozen=True)
class Chosen:
    """The arrays of one set in one file.

    Attributes
    ----------
    set
        The set's name in a file of several, such as ``train``; empty where there is one.
    numbers
        Width, height and bytes of the images, where the file has them.
    """

    set: str
    embeddings: Array
    labels: Array | None
    paths: Array | None
    splits: Array | None
    numbers: Mapping[str, Array]

    @property
    def all(self) -> list[Array]:
        """Every array."""
        others = (self.labels, self.paths, self.splits, *self.numbers.values())
        return [self.embeddings, *(each for each in others if each is not None)]


def choose(content: Content, keys: Keys) -> list[Chosen]:
    """The sets of a file: one, or several where its arrays are named ``<set>_embs``, ``<set>_labs``, ….

    Raises
    ------
    ImportInvalid
        A named array is missing, the choice is ambiguous, or the array is not of shape ``(n, dim)`` and floating
        point. The message lists the arrays.
    """
    if keys.embeddings is None and not keys.labels and not keys.paths:
        sets = _sets(content)
        if len(sets) > 1:
            return [_of_set(content, name, array, keys) for name, array in sets.items()]
    array = _embeddings(content, keys)
    return [replace(_of_set(content, _set_of(array.name), array, keys), set="")]


def _sets(content: Content) -> dict[str, Array]:
    """Embeddings by their set, if all embeddings of the file are named ``<set>_<usual name>`` or the other way."""
    found = {name: _set_of(name) for name, array in content.arrays.items() if _may_be_embeddings(array)}
    if not all(found.values()) or len(set(found.values())) < len(found):
        return {}
    return {each: content.arrays[name] for name, each in found.items()}


def _set_of(name: str) -> str:
    """The set that a name of embeddings tells: ``train`` of ``train_embs`` and of ``X_train``; empty if none."""
    before, _, last = name.rpartition("_")
    if before and last.casefold() in _EMBEDDINGS:
        return before
    first, _, after = name.partition("_")
    return after if first.casefold() in _EMBEDDINGS else ""


def _may_be_embeddings(array: Array) -> bool:
    return not array.problem and len(array.shape) == 2 and array.dtype.kind == "f"


def _embeddings(content: Content, keys: Keys) -> Array:
    if keys.embeddings is not None:
        return _checked(content, _named(content, keys.embeddings, "--key"))
    if list(content.arrays) == [""]:
        return _checked(content, content.arrays[""])
    floats = [name for name, array in content.arrays.items() if _may_be_embeddings(array)]
    if len(floats) == 1:
        return content.arrays[floats[0]]
    best = next((name for name in _preferred(floats)), None)
    if best is not None:
        return content.arrays[best]
    if not floats and len(content.arrays) == 1:
        return _checked(content, next(iter(content.arrays.values())))
    which = f"several {content.noun}s that may be the" if floats else f"no {content.noun} that may be"
    raise content.file.invalid(
        f"has {which} embeddings: it holds {content.listed()}. Choose the one of shape (n, dim) with --key."
    )


def _preferred(names: Iterable[str]) -> list[str]:
    by_key = {name.rpartition("/")[2].rpartition(".")[2].casefold(): name for name in names}
    return [by_key[each] for each in _EMBEDDINGS if each in by_key]


def _checked(content: Content, array: Array) -> Array:
    """The array, if it may be embeddings."""
    what = f"{content.file}, {content.noun} `{array.name}`," if array.name else f"{content.file}"
    if array.problem:
        raise _invalid(content, array, f"{what} {array.problem}.")
    if len(array.shape) != 2 or array.shape[1] == 0:
        raise _invalid(content, array, f"{what} has shape {array.shape}; expected (n, dim).")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise _invalid(content, array, f"{what} holds {array.type_name}; expected float16, float32 or float64.")
    return array


def _invalid(content: Content, array: Array, message: str) -> ShoalError:
    key = {"key": array.name} if array.name else {}
    return content.file.error(message, **{**content.file.members, **key})


def _named(content: Content, name: str, flag: str) -> Array:
    if name not in content.arrays or list(content.arrays) == [""]:
        if list(content.arrays) == [""]:
            raise content.file.invalid(f"is an .npy file, which holds one array without a name: remove {flag}.")
        raise content.file.invalid(
            f"has no {content.noun} `{name}`: it holds {content.listed()}. Choose one of them with {flag}.", key=name
        )
    return content.arrays[name]


def _of_set(content: Content, name: str, embeddings: Array, keys: Keys) -> Chosen:
    own, shared = _beside(content, embeddings, name)
    labels, paths = _labels(content, (own, shared), keys), _paths(content, (own, shared), keys)
    split = own.get("split", shared.get("split"))
    numbers = {each: shared[each] for each in NUMBERS if each in shared}
    return Chosen(
        name, embeddings, labels, paths, split if split is not None and _may_be_text(split) else None, numbers
    )


Beside: TypeAlias = tuple[dict[str, Array], dict[str, Array]]
"""Arrays that may belong to the embeddings: those of the set by their names without the set's, then all others."""


def _beside(content: Content, embeddings: Array, name: str) -> Beside:
    many = [array for array in content.arrays.values() if _may_be_embeddings(array)]
    sets = {_set_of(array.name) for array in many} - {""}
    own: dict[str, Array] = {}
    shared: dict[str, Array] = {}
    for key, array in content.arrays.items():
        if len(array.shape) != 1:
            continue
        of, rest = next(((each, cut) for each in sets if (cut := _without(key, each)) != key), ("", key))
        if of and of == name:
            own[rest] = array
        elif not of and (len(many) < 2 or array.rows == embeddings.rows):
            shared[key] = array
    return own, shared


def _without(key: str, name: str) -> str:
    """``labs`` of ``train_labs`` and of ``labs_train``, for the set ``train``."""
    return key.removeprefix(f"{name}_") if key.startswith(f"{name}_") else key.removesuffix(f"_{name}")


def _labels(content: Content, beside: Beside, keys: Keys) -> Array | None:
    if keys.labels is not None:
        return _named(content, keys.labels, "--label-key") if keys.labels else None
    for arrays in beside:
        found = [name for name in arrays if is_label_name(_last(name)) or _last(name).casefold() in _LABELS]
        exact = [name for name in found if _last(name) == "label"]
        if found:
            return _only(content, [arrays[name] for name in exact or found], "labels", "--label-key")
    return None


def _paths(content: Content, beside: Beside, keys: Keys) -> Array | None:
    if keys.paths is not None:
        return _named(content, keys.paths, "--path-key") if keys.paths else None
    for arrays in beside:
        by_key = {_last(name).casefold(): array for name, array in arrays.items() if _may_be_text(array)}
        best = [by_key[each] for each in _PATHS if each in by_key][:1]
        found = best or [array for key, array in by_key.items() if is_path_name(key)]
        if found:
            return _only(content, found, "paths", "--path-key")
    return None


def _may_be_text(array: Array) -> bool:
    return array.dtype.kind in "OUS" and not array.problem


def _only(content: Content, found: Sequence[Array], what: str, flag: str) -> Array:
    if len(found) > 1:
        shown = ", ".join(map(str, found))
        several = f"several {content.noun}s that may be the {what}"
        raise content.file.invalid(f"has {several}: {shown}. Choose one with {flag}.")
    return found[0]


def _last(name: str) -> str:
    """The last part of a nested name."""
    return name.rpartition("/")[2].rpartition(".")[2]
