"""The body that imports uploaded embeddings."""

from __future__ import annotations

from pydantic import Field

from shoal.schemas.base import Id, JobRequest, Name, RelativePath, Request


class ImportLabels(Request):
    """Labels from an uploaded file."""

    file: RelativePath = Field(
        description="Path within the upload: CSV, text, JSON Lines, Parquet, or `.npy` with one label per embedding."
    )
    path_column: str | None = Field(
        None,
        max_length=300,
        description="Column with the images' paths; null for one of a usual name. Empty: labels are in the order of "
        "the embeddings.",
    )
    label_column: str | None = Field(
        None, max_length=300, description="Column with the labels; null for one of a usual name."
    )


class ImportRequest(JobRequest):
    """Body of `POST /embeddings`."""

    upload: Id = Field(description="Id of a complete upload, see `POST /uploads`.")
    path: RelativePath = Field(
        ".",
        description="File or folder of embeddings within the upload: .npy, .npz, .pt, .safetensors, .h5 or .parquet, a "
        "folder of one of them, or a folder of clip-retrieval. A file that was sent in pieces has its own name here.",
    )
    name: Name = Field(description="Prefix of the id of the embeddings.")
    labels: ImportLabels | None = Field(
        None, description="A label file of the upload, in place of the labels that the files of embeddings hold."
    )
    split: Name | None = Field(None, description="Split of every row, such as `train` or `val`.")
    key: str | None = Field(
        None,
        min_length=1,
        max_length=300,
        description="Name of the embeddings within the file: an array, tensor, dataset or column. Null: found by "
        "itself; of a file with `train_embs`, `val_embs`, … every set is imported.",
    )
    label_key: str | None = Field(
        None, max_length=300, description="Name of the labels within the file; null for a usual name, empty for none."
    )
    path_key: str | None = Field(
        None,
        max_length=300,
        description="Name of the images' paths within the file; null for a usual name, empty for none.",
    )
