"""Reading checkpoint files without running what is in them."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from shoal.errors import WeightsInvalid

from extractor.models.checkpoints import kinds

PLAIN_CLASSES = (argparse.Namespace,)
"""Classes without behaviour that training scripts store beside the tensors (their command line)."""


def read(path: Path) -> Mapping[str, Any]:
    """What the file holds: tensors by name, or parts by name.

    Only tensors and plain containers are read; an object that would need code to run is refused. safetensors files
    are recognised by their content, not by their name.

    Raises
    ------
    WeightsInvalid
        The file is empty, broken, no checkpoint, or holds objects that need code.
    """
    kind = kinds.kind_of(path)
    if kind is not None:
        says = kind.says.replace("FILE", path.name)
        raise WeightsInvalid(f"{path.name} {says}", file=path.name, kind=kind.name)
    try:
        content = load_file(path) if _is_safetensors(path) else _load_pickle(path)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        whole = kinds.whole_object(path)
        if whole is not None:
            raise WeightsInvalid(
                f"{path.name} holds a whole object, a {whole}, and is not read, because that could run any code. Store "
                f"its state dict, where the code that wrote it is at hand: `model = torch.load({path.name!r}, "
                f"weights_only=False)`, then `{kinds.SAVE_STATE}`.",
                file=path.name,
                kind="whole_object",
            ) from error
        raise WeightsInvalid(
            f"{path.name} holds more than tensors and plain containers, and is not read, because that could run any "
            f"code: {_first_sentence(error)} Store its state dict alone, best as safetensors.",
            file=path.name,
        ) from error
    except Exception as error:  # Given damaged bytes, an unpickler raises whatever it stumbles over.
        raise WeightsInvalid(
            f"{path.name} cannot be read as a PyTorch checkpoint or as safetensors: {_first_sentence(error)} "
            "It may be cut off: compare its size and its sha256 with what its publisher states.",
            file=path.name,
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsInvalid(
            f"{path.name} holds a {type(content).__name__}, not a dict: store the network's state dict.", file=path.name
        )
    return content


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _load_pickle(path: Path) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    with torch.serialization.safe_globals(list(PLAIN_CLASSES)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # On pickle protocols that PyTorch may not support: it then raises as well.
        if path.suffix == ".safetensors":
            # By a path torch.load would go by the name. Published files are renamed to what the catalogue looks for.
            with path.open("rb") as file:
                return torch.load(file, **options)
        # Only the zip format can be mapped into memory; then an optimizer's state is never read from disk.
        return torch.load(path, **options, mmap=zipfile.is_zipfile(path))


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    for marker in ("WeightsUnpickler error: ", "Weights only load failed. "):
        text = text.rpartition(marker)[2]
    return text.split(". ")[0].rstrip(".")[:300] + "."
