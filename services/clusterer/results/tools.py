"""A clustering as the files that other tools import: one class per image, with names, merges and moves applied.

The class of an image is the name of the cluster that it is in after moves and merges, or `cluster 7` where that one has
no name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic_core import to_json
from shoal.schemas.graph import NOISE
from shoal.store import Store
from shoal.store.clustering import Clustering

from clusterer.results.exports import named_assignments, named_schema
from clusterer.results.named import Named

Tool = Literal["fiftyone", "labelstudio", "labelstudio-config", "cvat", "coco"]
FORMULA: Final = r"^[=+\-@\t\r\n\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]"
"""Beginnings of a cell that a spreadsheet would compute: some do so with full-width `＝`, `＋`, `－` and `＠`, too."""
_NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_SIZES: Final = ("width", "height", "bytes")


@dataclass(frozen=True)
class Image:
    """One row of a set."""

    row: int
    path: str
    cluster: int
    merged_cluster: int
    name: str
    flag: str | None
    width: int | None
    height: int | None
    bytes: int | None


@dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes
    ----------
    embeddings
        The scored set whose images are exported.
    root
        What comes before each path: a folder or an address; empty for paths as they are stored.
    """

    store: Store
    clustering: Clustering
    named: Named
    embeddings: str
    root: str = ""

    @property
    def classes(self) -> list[str]:
        """The names of all clusters that are not merged into another one, each once."""
        return list(dict.fromkeys(self.name_of(int(root)) for root in np.unique(self.named.roots)))

    def name_of(self, merged: int) -> str:
        """The class of the images of a merged cluster."""
        if merged == NOISE:
            return "noise"
        return self.named.names[merged].as_py() or f"cluster {merged}"

    def placed(self, path: str) -> str:
        """The path of an image with the root before it."""
        if not self.root or path.startswith(("/", "http://", "https://", "s3://")):
            return path
        return f"{self.root}{'' if self.root.endswith(('/', '=')) else '/'}{path}"

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The named assignments of the set."""
        for batch in named_assignments(self.store, self.clustering, self.named):
            if batch.column("embeddings")[0].as_py() == self.embeddings:
                yield batch

    def images(self) -> Iterator[Image]:
        """Every image; one whose path is not known is left out."""
        sizes = self.store.embeddings(self.embeddings).metadata(_SIZES)
        columns = [sizes.column(name).combine_chunks() for name in _SIZES]
        names = ("row", "image_path", "cluster", "merged_cluster", "flag")
        for batch in self.batches():
            taken = [batch.column(name).to_pylist() for name in names]
            taken += [column.take(batch.column("row")).to_pylist() for column in columns]
            for row, path, cluster, merged, flag, *size in zip(*taken, strict=True):
                if path is not None:
                    yield Image(row, self.placed(path), cluster, merged, self.name_of(merged), flag, *size)


def pieces_of(export: Export, tool: Tool) -> Iterator[bytes]:
    """The file of a tool, in pieces."""
    return {
        "fiftyone": fiftyone,
        "labelstudio": labelstudio,
        "labelstudio-config": labelstudio_config,
        "cvat": cvat,
        "coco": coco,
    }[tool](export)


def fiftyone(export: Export) -> Iterator[bytes]:
    """`labels.json` of a `FiftyOneImageClassificationDataset`.

    With a root each image is named by its absolute path; without one as that format names images below `data_path`:
    by the path without its extension.
    """

    def entry(image: Image) -> bytes:
        key = image.path if export.root else re.sub(r"\.[^./]+$", "", image.path)
        attributes = {"cluster": image.cluster, "row": image.row, **({"flag": image.flag} if image.flag else {})}
        return to_json(key) + b":" + to_json({"label": image.name, "attributes": attributes})

    yield b'{"labels":{'
    yield from _joined(entry(image) for image in export.images())
    yield b"}}\n"


def labelstudio(export: Export) -> Iterator[bytes]:
    """Tasks with a prediction each; `labelstudio_config` is the labelling interface that they are for."""

    def task(image: Image) -> bytes:
        chosen = {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": [image.name]}}
        data = {"image": _address(export, image.path), "row": image.row, "cluster": image.cluster, "flag": image.flag}
        prediction = {"model_version": export.clustering.id, "result": [{"id": f"row-{image.row}", **chosen}]}
        return to_json({"data": data, "predictions": [prediction]})

    yield b"["
    yield from _joined(task(image) for image in export.images())
    yield b"]\n"


def labelstudio_config(export: Export) -> Iterator[bytes]:
    """The labelling interface of Label Studio with one choice per class."""
    choices = "\n".join(f"    <Choice value={_attribute(name)}/>" for name in export.classes)
    yield (
        '<View>\n  <Image name="image" value="$image"/>\n  <Choices name="choice" toName="image" choice="single">\n'
        f"{choices}\n  </Choices>\n</View>\n"
    ).encode()


def cvat(export: Export) -> Iterator[bytes]:
    """`CVAT for images 1.1`: one tag per image."""
    labels = "".join(
        f"<label><name>{escape(_NOT_XML.sub('�', name))}</name><type>tag</type><attributes></attributes></label>"
        for name in export.classes
    )
    task = f"<task><name>{escape(export.clustering.id)}</name><mode>annotation</mode><labels>{labels}</labels></task>"
    yield f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta>{task}</meta>\n'.encode()
    for number, image in enumerate(export.images()):
        size = f' width="{image.width}" height="{image.height}"' if image.width and image.height else ""
        tag = f'<tag label={_attribute(image.name)} source="auto"></tag>'
        yield f'<image id="{number}" name={_attribute(image.path)}{size}>{tag}</image>\n'.encode()
    yield b"</annotations>\n"


def coco(export: Export) -> Iterator[bytes]:
    """COCO with one annotation per image: its category, and the whole image as its box where its size is known."""
    classes = export.classes
    numbers = {name: number for number, name in enumerate(classes, start=1)}

    def image_of(image: Image) -> bytes:
        size = {"width": image.width or 0, "height": image.height or 0}
        return to_json({"id": image.row + 1, "file_name": image.path, **size})

    def annotation(image: Image) -> bytes:
        width, height = image.width or 0, image.height or 0
        place = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}
        ids = {"id": image.row + 1, "image_id": image.row + 1, "category_id": numbers[image.name]}
        return to_json({**ids, **place, "attributes": {"cluster": image.cluster, "flag": image.flag}})

    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
    yield b'{"info":' + to_json({"description": f"Clustering {export.clustering.id}"}) + b',"licenses":[],"categories":'
    yield to_json(categories) + b',"images":['
    yield from _joined(image_of(image) for image in export.images())
    yield b'],"annotations":['
    yield from _joined(annotation(image) for image in export.images())
    yield b"]}\n"


def table_batches(export: Export) -> Iterator[pa.RecordBatch]:
    """The named assignments, with the root before each path."""
    schema = named_schema(export.clustering)
    at = schema.get_field_index("image_path")
    for batch in export.batches():
        columns = list(batch.columns)
        if export.root:
            placed = [None if path is None else export.placed(path) for path in columns[at].to_pylist()]
            columns[at] = pa.array(placed, pa.string())
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def safe_texts(batches: Iterable[pa.RecordBatch], names: Collection[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches whose texts, by default those of all columns, no spreadsheet computes."""
    for batch in batches:
        columns = [
            safe_cells(column) if pa.types.is_string(column.type) and (names is None or name in names) else column
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def safe_cells(column: pa.Array) -> pa.Array:
    """Text with a `'` before what a spreadsheet would compute."""
    formula = pc.match_substring_regex(column, FORMULA)
    return pc.if_else(formula, pc.binary_join_element_wise("'", column, ""), column)


def _joined(parts: Iterator[bytes]) -> Iterator[bytes]:
    """JSON values of a list, a few hundred in each piece."""
    block: list[bytes] = []
    before = b""
    for part in chain(parts):
        block.append(part)
        if len(block) == 512:
            yield before + b",\n".join(block)
            block, before = [], b",\n"
    if block:
        yield before + b",\n".join(block)


def _address(export: Export, path: str) -> str:
    """The address of an image, escaped behind the root, as in `/data/local-files/?d=my%20photos/1.jpg`."""
    if not export.root or not path.startswith(export.root):
        return path
    return export.root + quote(path[len(export.root) :])


def _attribute(text: str) -> str:
    return quoteattr(_NOT_XML.sub("�", text))
