"""Compiles the services' kernels when the package is built or installed editable, if there is a compiler."""

from __future__ import annotations

import sys
import sysconfig
from importlib import import_module
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = {
    "clusterer.native.build": "The fast k-means engine is left out, faiss takes its place",
    "extractor.native.build": "The fast resizing of images is left out, Pillow takes its place",
}
"""Modules that say what to compile, and what a missing library means."""


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled libraries into the wheel, or beside the sources for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        built = [path for module, without in KERNELS.items() for path in self._build(module, without)]
        if built:
            # The libraries use no interface of Python's: one wheel serves all its versions.
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"] += [f"/{path.relative_to(self.root).as_posix()}" for path in built]

    def _build(self, module: str, without: str) -> list[Path]:
        # The package itself is not installed yet, or is another version.
        root = Path(self.root)
        sys.path[:0] = folders = [str(root / "shared"), str(root / "services")]
        try:
            compiled: list[Path] = import_module(module).KERNEL.build()
        except import_module("shoal.native.build").BuildFailed as failure:
            self.app.display_warning(f"{without}: {failure}")
            return []
        finally:
            for folder in folders:
                sys.path.remove(folder)
        return compiled
