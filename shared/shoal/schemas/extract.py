"""Requests of the extractor: which images, which model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticKnownError

from shoal.schemas.base import Id, JobRequest, Name, RelativePath, Request, Seed
from shoal.schemas.keypatterns import LONGEST, check_ignored, check_pattern, check_replacement

MAX_PAIRS = 100


class LabelFile(Request):
    """Labels from a file with one row per image."""

    file: RelativePath = Field(
        description="Path of the file, relative to the data root: CSV (separated by comma, semicolon, tab or pipe), "
        "text with one path and label per line, JSON Lines or Parquet."
    )
    path_column: str = Field(
        "path",
        max_length=300,
        description="Column with the image's path, relative to `images.path`. If the file has no column `path`, a "
        "usual name such as `filename` or `image` is recognised.",
    )
    label_column: str = Field(
        "label",
        max_length=300,
        description="Column with the label. If the file has no column `label`, a usual name such as `class` is "
        "recognised, or the only column besides the paths.",
    )


class FolderLevel(Request):
    """Labels from the names of the folders at one level."""

    folder_level: int = Field(
        ge=0, le=100, description="Level of the folder that is the class: 0 for the first folder below `path`."
    )


def _labels_kind(value: object) -> str:
    """Which of the two objects is meant, so that errors concern that one alone."""
    by_level = isinstance(value, FolderLevel) or (
        isinstance(value, dict) and "folder_level" in value and "file" not in value
    )
    return "FolderLevel" if by_level else "LabelFile"


LabelObject = Annotated[
    Annotated[LabelFile, Tag("LabelFile")] | Annotated[FolderLevel, Tag("FolderLevel")], Discriminator(_labels_kind)
]


SourceFormat = Literal["auto", "folder", "list", "tar", "zip", "parquet", "imagefolder", "imagenet"]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class ImageSource(Request):
    """The images to embed."""

    path: RelativePath = Field(
        description="Where the images are, relative to the data root: a folder; a list of paths (.txt, .csv, "
        ".jsonl, .parquet); an archive (.tar, .zip), a Parquet file with the images themselves; a folder of "
        "these, or several by braces, `shards/{00000..00099}.tar`."
    )
    format: SourceFormat = Field(
        "auto",
        description="What lies at `path`; `auto` finds out. `folder`: image files at any depth. `list`: a file that "
        "names images, relative to its own folder or to the data root, or at https:// and s3:// addresses that the "
        "operator allows, with columns for label and split if it has them. "
        "`tar`, `zip`: archives, read without unpacking them; WebDataset's `.cls`, `.json` and `.txt` beside an "
        "image are its label. `parquet`: a column of images, as bytes or as Hugging Face has them, with a column for "
        "the label. `imagefolder`: a folder with Hugging Face's `metadata.csv`, `.jsonl` or `.parquet`, or one for "
        "each split. `imagenet`: ImageNet's validation images, with `LOC_val_solution.csv` or a list of synsets in "
        "the folder or above it.",
    )
    labels: Literal["folder", "none"] | LabelObject = Field(
        "folder",
        description="Where labels come from. `folder`: the first folder below `path` is the class, and images outside "
        "of folders have no label. Folders such as `train` and `val` are recognised as splits, a folder that contains "
        "all images (`images`) is skipped, and the numbered shards of img2dataset are not classes; `source` in the "
        'embeddings says what was recognised. `{"folder_level": n}`: the folders at that level are the classes. '
        "`none`: no labels.",
    )
    split: Name | None = Field(
        None,
        description="Split of every row, such as `train` or `val`. If null and `labels` is `folder`, it comes "
        "from folders such as `train` and `val`, if there are any.",
    )
    include: list[Glob] = Field(
        [],
        max_length=100,
        description="Patterns of the images to take; all if empty. As in `.gitignore`, a pattern without a slash "
        "matches a file or a folder of that name at any depth (`*.jpg`), one with a slash a path from `path` "
        "(`train/**/*.png`), and a folder includes all below it. Upper and lower case differ.",
    )
    exclude: list[Glob] = Field(
        [], max_length=100, description="Patterns of the images to leave out, as for `include`; they win over it."
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=2**53,
        description="Take at most so many images, evenly spread over the listing, so that a sorted folder keeps its "
        "classes.",
    )


class UploadSource(ImageSource):
    """Uploaded images to embed."""

    path: RelativePath = Field(".", description="Folder of images within the upload.")
    upload: Id = Field(description="Id of a complete upload, see `POST /uploads`.")


def _source_kind(value: object) -> str:
    uploaded = isinstance(value, UploadSource) or (isinstance(value, dict) and "upload" in value)
    return "UploadSource" if uploaded else "ImageSource"


AnySource = Annotated[
    Annotated[ImageSource, Tag("ImageSource")] | Annotated[UploadSource, Tag("UploadSource")],
    Discriminator(_source_kind),
]


class TransformOverride(Request):
    """How an image becomes the model's input, where it differs from the architecture's default."""

    size: int | None = Field(None, ge=8, le=4096, description="Side of the square input in pixels.")
    crop_fraction: float | None = Field(
        None, gt=0, le=1, description="Side of the centre crop divided by the side after resizing."
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] | None = Field(
        None, description="Interpolation of the resizing."
    )
    mean: list[Annotated[float, Field(ge=-1000, le=1000)]] | None = Field(
        None, min_length=3, max_length=3, description="Mean per channel that is subtracted from values in [0, 1]."
    )
    std: list[Annotated[float, Field(gt=0, le=1000)]] | None = Field(
        None, min_length=3, max_length=3, description="Standard deviation per channel that values are divided by."
    )
    decode: Literal["full", "scaled"] | None = Field(
        None,
        description="`scaled` decodes a JPEG file at half, a quarter or an eighth of its size where that still has "
        "twice the sides of the resized image: large photographs take half the time or less, and the embeddings change "
        "slightly. `full`, the default, decodes all pixels. Embeddings of the two have different ids.",
    )


_Replacement = Annotated[str, StringConstraints(max_length=LONGEST)]
_Pattern = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(check_pattern)]
_Ignored = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(check_ignored)]
_Pair = Annotated[list[_Replacement], Field(min_length=2, max_length=2)]


def _few_pairs(rename: object) -> object:
    # Checked first: each invalid pair is an error, and a body has room for 100,000.
    if isinstance(rename, dict) and len(rename) > MAX_PAIRS:
        context = {"field_type": "Dictionary", "max_length": MAX_PAIRS, "actual_length": len(rename)}
        raise PydanticKnownError("too_long", context)
    return rename


def _pairs(rename: list[list[str]] | dict[str, str]) -> list[list[str]] | dict[str, str]:
    for pattern, replacement in rename.items() if isinstance(rename, dict) else rename:
        if not pattern:
            raise ValueError(
                "an empty pattern matches every key: send a prefix, or a regular expression that begins with `^`"
            )
        check_replacement(check_pattern(pattern), replacement)
    return rename


class KeyMapping(Request):
    """How the keys of a checkpoint become those of the network, if no known layout matches.

    ``module.`` and ``_orig_mod.`` are removed first. A missing or unexpected tensor is an error, as without a mapping.
    """

    prefix: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)] | None = Field(
        None,
        description="Prefix of the network's keys, such as `online_encoder.net.`, which is removed. Tensors without "
        "this prefix are not loaded; the model's record lists them.",
    )
    rename: Annotated[
        Annotated[list[_Pair], Field(max_length=MAX_PAIRS)]
        | Annotated[dict[_Pattern, _Replacement], Field(max_length=MAX_PAIRS), BeforeValidator(_few_pairs)],
        AfterValidator(_pairs),
    ] = Field(
        default_factory=list,
        description="Pairs of a pattern and its replacement, applied to each key in order, after `prefix`. A pattern "
        "is a plain prefix of the key, or a regular expression that begins with `^`, whose replacement may refer to "
        "groups as `\\1`.",
    )
    ignore: Annotated[list[_Ignored], Field(max_length=100)] = Field(
        default_factory=list,
        description="Tensors of the checkpoint that need not be loaded: a plain prefix of the key, a glob such as "
        "`predictor.*`, or a regular expression that begins with `^`.",
    )

    def rename_pairs(self) -> tuple[tuple[str, str], ...]:
        """`rename` as pairs, in either spelling."""
        pairs = self.rename.items() if isinstance(self.rename, dict) else self.rename
        return tuple((pattern, replacement) for pattern, replacement in pairs)


class CustomModel(KeyMapping):
    """A model that is not in the catalogue."""

    architecture: str = Field(
        min_length=1,
        max_length=200,
        description="Name of an architecture of timm or of the catalogue, or `open_clip:<name>`.",
    )
    weights: str = Field(
        min_length=1,
        max_length=4096,
        description="Checkpoint file, relative to the models root, or `random` for seeded random initialisation, a "
        "baseline.",
    )
    layout: str = Field("auto", max_length=100, description="Key layout of the checkpoint; `auto` tries all.")
    transform: TransformOverride | None = Field(None, description="Overrides of the architecture's image transform.")
    embedding: str = Field(
        "pooled",
        min_length=1,
        max_length=200,
        description="Output to use as the embedding: `pooled`, `cls`, `patch_mean`, or the name of a module inside "
        "the network.",
    )
    seed: Seed = Field(0, description="Seed of `random` weights.")


Engine = Literal["auto", "eager", "bf16", "compile", "openvino", "openvino-int8"]


class ExtractRequest(JobRequest):
    """Body of `POST /extract`."""

    images: AnySource = Field(description="The images to embed.")
    model: Annotated[str, StringConstraints(min_length=1, max_length=300)] | CustomModel = Field(
        description="Name of a model of the catalogue, `timm:<name>` for any model of timm, `open_clip:<name>` "
        "for one of OpenCLIP, or an object that describes a model of your own."
    )
    name: Name | None = Field(None, description="Prefix of the id of the embeddings; the model's name by default.")
    batch_size: int = Field(64, ge=1, le=4096, description="Images per batch.")
    engine: Engine = Field(
        "auto",
        description="How a network of PyTorch runs. `auto`: the fastest installed engine whose embeddings have a "
        "cosine of 0.999 or more to those of `eager`, timed on some of the images; `eager` for fewer than 1,000 "
        "images. `eager`: PyTorch in float32. `bf16`: PyTorch in bfloat16. `compile`: compiled by PyTorch. `openvino`: "
        "converted to OpenVINO, in bfloat16, float16 or float32, whichever is fastest on the worker's processor. "
        "`openvino-int8`: quantised to 8 bits, with ranges from some of the images. The embeddings' id depends on the "
        "type of number.",
    )
    dtype: Literal["float16", "float32"] = Field("float32", description="Type of the stored embeddings.")
    shard_rows: int = Field(
        10_000, ge=1, le=1_000_000, description="Images per shard. Shards are written atomically, one after another."
    )
    thumbnails: bool = Field(True, description="Whether to store a small WebP of each image for reports.")
    max_failed_fraction: float = Field(
        0.05, ge=0, le=1, description="Fraction of the images that may fail. If more fail, the job fails."
    )
    reuse: Id | None = Field(
        "auto",
        description="Where rows of earlier embeddings are taken over from. An image whose content, model and "
        "preprocessing are those of a stored row is not embedded again, whatever its path. `auto`: all embeddings in "
        "the store; an id: those embeddings alone; null: none.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="How many workers may embed the images at once, shard by shard; null for all that are idle. A "
        "worker helps while no job waits for it. Images of one shard are embedded by one worker.",
    )
