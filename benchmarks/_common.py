"""Shared by all benchmarks: the command line, a description of the machine, the JSON line at the end."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.host import available_cores, library_versions

LIBRARIES = (
    "numpy",
    "pillow",
    "simplejpeg",
    "torch",
    "torchvision",
    "timm",
    "tensorflow",
    "openvino",
    "nncf",
    "faiss-cpu",
    "faiss-gpu",
    "scikit-learn",
    "pyarrow",
)


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with ``--json``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return made


def machine() -> dict[str, Any]:
    """The machine: processor, cores, memory, GPU, library versions."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "load_1m": round(os.getloadavg()[0], 1),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
        "libraries": library_versions(LIBRARIES),
    }


def spread(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Mean and sample standard deviation, with the values themselves."""
    return {
        "mean": round(statistics.fmean(values), digits),
        "std": round(statistics.stdev(values), digits) if len(values) > 1 else 0.0,
        "values": [round(value, digits) for value in values],
    }


def finish(result: dict[str, Any], *, as_json: bool) -> None:
    """With ``--json``, print ``result`` and the machine as the last line."""
    sys.stdout.flush()
    if as_json:
        print(json.dumps({**result, "machine": machine()}, allow_nan=False), flush=True)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
