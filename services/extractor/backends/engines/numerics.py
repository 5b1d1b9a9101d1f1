"""Which engine computes in which numerics class, and what this machine can run.

A plan names its class, so that rows of two classes never mix. Eager float32 has none: plans of every version agree.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, cast, get_args

from shoal.errors import EngineUnavailable, InvalidRequest
from shoal.settings import Settings

from extractor.models.spec import ModelSpec

EngineName = Literal["eager", "bf16", "compile", "openvino", "openvino-int8"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
CLASSES: dict[str, EngineName] = {
    "bf16": "bf16",
    "compile-bf16": "compile",
    "compile-f32": "compile",
    "openvino-bf16": "openvino",
    "openvino-f16": "openvino",
    "openvino-f32": "openvino",
    "openvino-int8": "openvino-int8",
}
"""Numerics class to the engine that computes in it."""
INSTALL = {"openvino": "shoal[openvino]", "nncf": "shoal[int8]"}


def engine_of(numerics: str | None) -> EngineName:
    """The engine that computes in ``numerics``, a plan's class.

    Raises
    ------
    EngineUnavailable
        A newer version of Shoal made the plan.
    """
    if numerics is None:
        return "eager"
    if numerics not in CLASSES:
        raise EngineUnavailable(f"The plan's engine is {numerics!r}, which this version of Shoal does not know.")
    return CLASSES[numerics]


def classes(engine: EngineName, settings: Settings) -> list[str | None]:
    """The classes in which ``engine`` can compute here, the fastest first; empty where it cannot run."""
    if engine == "eager":
        return [None]
    return [each for each, name in CLASSES.items() if name == engine and missing(each, settings) is None]


def automatic(settings: Settings) -> list[str | None]:
    """The classes among which ``auto`` takes the fastest.

    Not ``compile``, whose compiling takes longer than the others' timing, and never fewer bits than bfloat16 has.
    """
    from extractor.backends.torch import pick_device

    found: list[str | None] = [None]
    if fast_bf16(settings):
        found.append("bf16")
    if pick_device(settings.device).type == "cpu":
        found += classes("openvino", settings)
    return found


def require(numerics: str | None, spec: ModelSpec, settings: Settings) -> None:
    """Check that this machine can compute in ``numerics``.

    Raises
    ------
    EngineUnavailable
        It lacks a library, a compiler or a type of number; the message says which.
    InvalidRequest
        The model is not a network of PyTorch.
    """
    if numerics is None:
        return
    engine = engine_of(numerics)
    if not spec.has_engines:
        raise InvalidRequest(spec.no_engines(engine), field="engine")
    why = missing(numerics, settings)
    if why is not None:
        raise EngineUnavailable(
            f"The engine `{engine}` ({numerics}) does not run here: {why}. Embeddings that were begun with an engine "
            "are continued by the same; run the job on a machine that has it, or send another `engine` for a new set.",
            engine=engine,
            numerics=numerics,
        )


def missing(numerics: str, settings: Settings) -> str | None:
    """What this machine lacks to compute in ``numerics``; None if nothing."""
    engine = CLASSES[numerics]
    if engine == "bf16":
        return None
    if engine == "compile":
        if numerics == "compile-bf16" and not fast_bf16(settings):
            return "the processor has no instructions for bfloat16"
        return _no_compiler(settings)
    for module in ("openvino", "nncf") if engine == "openvino-int8" else ("openvino",):
        if find_spec(module) is None:
            return f"{module} is not installed (`pip install '{INSTALL[module]}'`)"
    wanted = {"openvino-bf16": "BF16", "openvino-f16": "FP16", "openvino-int8": "INT8"}.get(numerics, "FP32")
    return None if wanted in openvino_types() else f"OpenVINO does not compute in {wanted} on this processor"


@cache
def openvino_types() -> frozenset[str]:
    """Types in which OpenVINO computes fast on this processor, such as ``BF16``."""
    openvino = import_openvino()
    return frozenset(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def import_openvino() -> ModuleType:
    """OpenVINO, without the package by which it tells its makers how it is used."""
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
    return import_module("openvino")


def fast_bf16(settings: Settings) -> bool:
    """Whether the device has instructions for bfloat16: without them PyTorch emulates them, slower than float32."""
    import torch

    from extractor.backends.torch import pick_device

    if pick_device(settings.device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _no_compiler(settings: Settings) -> str | None:
    from extractor.backends.torch import pick_device

    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        return f"torch.compile needs a C++ compiler, and {compiler!r} is not installed"
    if pick_device(settings.device).type == "cuda" and find_spec("triton") is None:
        return "torch.compile needs triton on a GPU"
    return None
