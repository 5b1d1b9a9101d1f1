"""From the name in a request to a `ModelSpec`: catalogue files, imported TensorFlow models, timm, custom models.

Nothing here imports torch or timm, so that the API can refuse a bad request before a job exists.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from shoal.errors import InvalidRequest, UnknownModel
from shoal.schemas import CustomModel, KeyMapping, TransformOverride
from shoal.settings import Settings
from shoal.userfiles import UserFile, confine, require_regular, shortened

from extractor.images.transform import CropMode, Transform
from extractor.models import folders
from extractor.models.checkpoints.layouts import LAYOUT_NAMES
from extractor.models.published import (
    OPEN_CLIP_PREFIX,
    TIMM_PREFIX,
    open_clip_model,
    open_clip_names,
    timm_model,
    timm_names,
    timm_version,
)
from extractor.models.spec import ModelSpec, PublishedModel, WeightsSource

BUILT_IN = Path(__file__).with_name("models.toml")
USER_CATALOGUE = "catalogue.toml"
"""Read from the models root when `SHOAL_CATALOGUE` names no other file."""
LONGEST_NAME = 300
_MOST_BYTES = 4 << 20
HANDLER_PREFIX = "handler:"


class _TransformRow(TransformOverride):
    crop_mode: CropMode | None = None


class _Row(KeyMapping):
    """One table ``[models.<name>]`` of a catalogue file."""

    description: str = ""
    backend: Literal["torch", "tfserving"] = "torch"
    timm: str | None = Field(None, description="Name in timm that the fields left out are taken from.")
    architecture: str | None = None
    weights: Literal["none", "random", "file"] = "file"
    file: str | None = Field(None, description="Name below the models root.")
    files: list[str] = Field(default_factory=list, description="Further names that are accepted.")
    package: str | None = None
    resource: str | None = None
    url: str | None = None
    page: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{6,32}$")
    layout: Literal[LAYOUT_NAMES] | None = None  # type: ignore[valid-type]
    transform: _TransformRow | None = None
    dim: int | None = Field(None, ge=1)
    embedding: str = "pooled"
    seed: int | None = Field(None, ge=0)
    handler: str | None = Field(None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    licence: str | None = None
    paper: str | None = None
    linear_probe: float | None = Field(None, ge=0, le=100)
    options: dict[str, str] = Field(default_factory=dict)
    published: PublishedModel | None = None

    @model_validator(mode="after")
    def _says_enough(self) -> _Row:
        if self.timm is None and self.architecture is None and self.handler is None:
            raise ValueError("set `architecture`, `timm` or `handler`")
        if self.timm is not None and timm_model(self.timm) is None:
            raise ValueError(f"timm has no model {self.timm!r}")
        if self.published is not None and self.backend != "tfserving":
            raise ValueError('`published` needs `backend = "tfserving"`; for other models, set `url`')
        if (self.package is None) != (self.resource is None):
            raise ValueError("set both `package` and `resource`, or neither")
        held_here = self.backend != "tfserving" and self.timm is None and self.handler is None
        if self.weights == "file" and held_here and not (self.file or self.files or self.package):
            raise ValueError("give `file` (a name below the models root), or `weights` as `random` or `none`")
        for name in (*self.files, *([self.file] if self.file else [])):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} must be a path below the models root")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    models: dict[str, dict[str, Any]] = Field(default_factory=dict)


def resolve(
    model: str | CustomModel, models_root: Path, *, settings: Settings | None = None, imported: bool = True
) -> ModelSpec:
    """The specification of the model that a request names.

    Parameters
    ----------
    model
        A catalogue name, ``timm:<name>``, ``open_clip:<name>``, ``handler:<module>:<Class>``, or a custom model.
    models_root
        Folder of checkpoint files.
    settings
        Name the user's catalogue and the allowed handlers; read from the environment by default.
    imported
        Whether to find TensorFlow models that were imported under a name that is not in the catalogue.

    Raises
    ------
    UnknownModel
        There is no such model; the message lists similar names.
    PathOutsideRoot, PathNotFound
        A custom model's weights are not a file below `models_root`.
    InvalidRequest
        The handler is not on the operator's allow-list, or the user's catalogue cannot be read.
    """
    settings = settings or Settings()
    if isinstance(model, str) and len(model) > LONGEST_NAME:
        raise UnknownModel(f"{shortened(model)!r} is not a model name: names have at most {LONGEST_NAME} characters.")
    if isinstance(model, CustomModel):
        return _custom(model, models_root, settings)
    if model.startswith(TIMM_PREFIX):
        return _timm(model.removeprefix(TIMM_PREFIX))
    if model.startswith(OPEN_CLIP_PREFIX):
        return _open_clip(model)
    if model.startswith(HANDLER_PREFIX):
        handler = model.removeprefix(HANDLER_PREFIX)
        return _spec(model, _checked_row(model, {"handler": handler}, "the request"), settings)
    for path in reversed(catalogue_files(models_root, settings)):
        rows = _rows(path)
        if model in rows:
            return _spec(model, rows[model], settings)
    report = folders.latest_report(models_root, model) if imported else None
    if report is not None:
        return _imported(model, report, settings)
    raise _unknown(model, models_root, settings)


def all_models(models_root: Path, *, settings: Settings | None = None) -> list[ModelSpec]:
    """Every model of the catalogues and every imported one; a user's row replaces the built-in one of the same name."""
    settings = settings or Settings()
    merged: dict[str, _Row] = {}
    for path in catalogue_files(models_root, settings):
        merged.update(_rows(path))
    specs = [_spec(name, row, settings, check_handler=False) for name, row in merged.items()]
    for name, _ in folders.served_models(models_root):
        report = folders.latest_report(models_root, name) if name not in merged else None
        if report is not None:
            specs.append(_imported(name, report, settings))
    return specs


def catalogue_files(models_root: Path, settings: Settings) -> list[Path]:
    """The catalogue files in use; a later one overrides the earlier."""
    user = settings.catalogue or models_root / USER_CATALOGUE
    if settings.catalogue is not None and not user.exists():
        raise InvalidRequest(f"The catalogue {user} (SHOAL_CATALOGUE) does not exist.")
    return [BUILT_IN, user] if user.exists() else [BUILT_IN]


def _rows(path: Path) -> dict[str, _Row]:
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, _mtime: int, _size: int) -> dict[str, _Row]:
    content = UserFile(path, f"The catalogue {path}", InvalidRequest).read_text(_MOST_BYTES)
    try:
        document = _File.model_validate(tomllib.loads(content))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The catalogue {path} is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise InvalidRequest(f"The catalogue {path}: {_sentence(error)}.") from error
    return {name: _checked_row(name, row, str(path)) for name, row in document.models.items()}


def _checked_row(name: str, row: dict[str, Any], where: str) -> _Row:
    try:
        return _Row.model_validate(row)
    except ValidationError as error:
        raise InvalidRequest(f"Model {name!r} in {where}: {_sentence(error)}.") from error


def _sentence(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        place = ".".join(str(p) for p in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        parts.append(f"`{place}`: {text}" if place else text)
    return "; ".join(parts)


def _spec(name: str, row: _Row, settings: Settings, *, check_handler: bool = True) -> ModelSpec:
    base = _timm(row.timm) if row.timm else None
    if row.handler and check_handler and row.handler not in settings.handlers:
        raise InvalidRequest(f"The handler {row.handler!r} is not allowed. Add it to SHOAL_HANDLERS, as module:Class.")
    return ModelSpec(
        name=name,
        backend=row.backend,
        architecture=row.architecture or (base.architecture if base else f"{HANDLER_PREFIX}{row.handler}"),
        weights=_source(name, row, base),
        layout=row.layout or ("timm" if base else "none" if row.backend == "tfserving" else "auto"),
        prefix=row.prefix,
        rename=row.rename_pairs(),
        ignore=tuple(row.ignore),
        transform=_merged(base.transform if base else Transform(), row.transform),
        dim=row.dim if row.dim or row.embedding != "pooled" else (base.dim if base else None),
        embedding=row.embedding,
        seed=row.seed if row.seed is not None or row.weights != "random" else 0,
        handler=row.handler,
        description=row.description,
        licence=row.licence or (base.licence if base else None),
        paper=row.paper,
        linear_probe=row.linear_probe,
        options=row.options,
    )


def _imported(name: str, report: dict[str, Any], settings: Settings) -> ModelSpec:
    """A TensorFlow model that was imported under a name of its own, described by its import report."""
    row = {
        "description": "Imported from TensorFlow.",
        "backend": "tfserving",
        "architecture": "savedmodel",
        **{key: report.get(key) for key in ("transform", "dim")},
        "embedding": report.get("output"),
    }
    return _spec(name, _checked_row(name, row, f"its import report ({folders.REPORT})"), settings)


def _source(name: str, row: _Row, base: ModelSpec | None) -> WeightsSource:
    if row.backend == "tfserving":
        return WeightsSource("served", files=(name,), published=row.published)
    if row.weights != "file":
        return WeightsSource(row.weights)
    theirs = base.weights if base else WeightsSource("none")
    if row.file is None:
        # timm's file first: a download is stored under the first name.
        files = (*theirs.files, *row.files)
    else:
        files, theirs = (row.file, *row.files, *theirs.files), replace(theirs, url=None, sha256=None)
    if not files and row.package is None:
        return WeightsSource("none")
    return WeightsSource(
        "package" if row.package else "file",
        files=files,
        url=row.url or theirs.url,
        sha256=row.sha256 or theirs.sha256,
        md5=row.md5,
        page=row.page,
        package=row.package,
        resource=row.resource,
    )


def _merged(base: Transform, over: _TransformRow | TransformOverride | None) -> Transform:
    if over is None:
        return base
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in over.model_dump(exclude_none=True).items()}
    return Transform(**{**vars(base), **given})


def _timm(name: str) -> ModelSpec:
    found = timm_model(name)
    if found is not None:
        return found
    near = [TIMM_PREFIX + n for n in _near(name, timm_names())]
    raise UnknownModel(
        f"timm {timm_version()} has no model {shortened(name)!r}.{_hint(near)}",
        near=near,
    )


def _open_clip(name: str, field: str = "model") -> ModelSpec:
    found = open_clip_model(name.removeprefix(OPEN_CLIP_PREFIX))
    if found is not None:
        return found
    near = [OPEN_CLIP_PREFIX + each for each in _near(name.removeprefix(OPEN_CLIP_PREFIX), open_clip_names())]
    raise UnknownModel(f"OpenCLIP has no model {shortened(name)!r}.{_hint(near)}", near=near, field=field)


def _near(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=5, cutoff=0.5)


def _hint(near: list[str]) -> str:
    return f" Did you mean {', '.join(near)}?" if near else ""


def _custom(model: CustomModel, models_root: Path, settings: Settings) -> ModelSpec:
    if model.layout not in LAYOUT_NAMES:
        raise InvalidRequest(f"`layout` is {model.layout!r}. Choose one of {', '.join(LAYOUT_NAMES)}.", field="layout")
    base = _architecture(model.architecture, models_root, settings)
    transform = _merged(base.transform, model.transform)
    dim = base.dim if model.embedding == "pooled" else None
    if base.architecture == "pixels":
        dim = 3 * transform.size**2
    if model.weights == "random":
        weights = WeightsSource("random")
        name = f"{base.architecture}-random{model.seed}"
    else:
        path = confine(models_root, model.weights, "weights")
        try:
            require_regular(path.stat())
        except OSError as error:
            raise InvalidRequest(
                f"`weights` is {model.weights!r}: {error}. Name a checkpoint file.", field="weights"
            ) from error
        weights = WeightsSource("file", files=(model.weights,))
        name = f"{base.architecture}-{path.name.partition('.')[0]}"
    return ModelSpec(
        name=name,
        backend="torch",
        architecture=base.architecture,
        weights=weights,
        layout=model.layout,
        prefix=model.prefix,
        rename=model.rename_pairs(),
        ignore=tuple(model.ignore),
        transform=transform,
        dim=dim,
        embedding=model.embedding,
        seed=model.seed if model.weights == "random" else None,
        description="custom",
        reads_text=base.reads_text,
    )


def _architecture(name: str, models_root: Path, settings: Settings) -> ModelSpec:
    """A specification with the architecture called `name`, its transform and its dimension."""
    if name.startswith(OPEN_CLIP_PREFIX):
        return _open_clip(name, "architecture")
    name = name.removeprefix(TIMM_PREFIX)
    found = timm_model(name)
    if found is not None:
        return replace(found, architecture=name)
    specs = [spec for spec in all_models(models_root, settings=settings) if not spec.handler]
    known = {spec.architecture: spec for spec in specs} | {spec.name: spec for spec in specs}
    if name in known and known[name].backend == "torch":
        return known[name]
    near = _near(name, [*known, *timm_names()])
    raise UnknownModel(
        f"The architecture {shortened(name)!r} does not exist.{_hint(near)} Name one of timm's, such as 'resnet50', or "
        "one of the catalogue's.",
        near=near,
        field="architecture",
    )


def _unknown(name: str, models_root: Path, settings: Settings) -> UnknownModel:
    near = [TIMM_PREFIX + name] if timm_model(name) is not None else []
    near += _near(name, [spec.name for spec in all_models(models_root, settings=settings)])
    near = near or [TIMM_PREFIX + n for n in _near(name, timm_names())]
    return UnknownModel(
        f"The model {shortened(name)!r} is not in the catalogue.{_hint(near)} `GET /models` lists all; timm's models "
        "are named `timm:<name>`.",
        near=near,
    )
