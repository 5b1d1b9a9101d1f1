"""Compiles the k-means kernel when the package is built or installed editable; without a compiler it goes without."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "services/clusterer/native"


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled libraries into the wheel, or beside the sources for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        kernel = load(Path(self.root) / FOLDER / "build.py")
        try:
            built = kernel.build()
        except kernel.BuildFailed as failure:
            self.app.display_warning(f"The fast k-means engine is left out, faiss takes its place: {failure}")
            return
        if built:
            # The libraries use no interface of Python's: one wheel serves all its versions.
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"] += [f"/{path.relative_to(self.root).as_posix()}" for path in built]


def load(path: Path) -> ModuleType:
    """Import a file by its path: the package itself is not installed yet."""
    spec = importlib.util.spec_from_file_location("kernel_build", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
