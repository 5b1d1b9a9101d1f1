"""What results look like in a notebook: HTML of bounded size, in which every name is text, whatever it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

MAX_ROWS = 50
MAX_COLUMNS = 16
MAX_TEXT = 120
"""Characters of one value."""
MAX_IMAGE_BYTES = 64 * 2**10
MAX_IMAGES_BYTES = 2 * 2**20
"""Bytes of all images of one output: a notebook's file keeps them."""
_IMAGE = re.compile(r"data:image/(?:webp|png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")
_CELL = "padding:2px 10px;text-align:{align};vertical-align:top"


def text(value: object) -> str:
    """A value as escaped text, cut where it is long."""
    if value is None:
        return ""
    if isinstance(value, float):
        shown = f"{value:,.4g}"
    elif isinstance(value, dict | list):
        shown = json.dumps(value, default=str)
    else:
        shown = str(value)
    if len(shown) > MAX_TEXT:
        shown = shown[: MAX_TEXT - 1] + "…"
    # A lone surrogate, as odd file names have it, cannot be written to a notebook's file.
    return escape(shown.encode(errors="backslashreplace").decode(), quote=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, total: int | None = None) -> str:
    """A table of the first rows and columns.

    Parameters
    ----------
    total
        Number of all rows, where ``rows`` are the first of them.
    """
    shown = [list(row)[:MAX_COLUMNS] for _, row in zip(range(MAX_ROWS), rows, strict=False)]
    head = "".join(f'<th style="{_CELL.format(align="left")}">{text(name)}</th>' for name in header[:MAX_COLUMNS])
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in shown)
    count = len(shown) if total is None else total
    notes = [f"{len(shown)} of {count:,} rows"] if count > len(shown) else []
    if len(header) > MAX_COLUMNS:
        notes.append(f"{MAX_COLUMNS} of {len(header)} columns")
    note = f"<p>{', '.join(notes)}</p>" if notes else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def _cell(value: object) -> str:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return f'<td style="{_CELL.format(align="right" if right else "left")}">{text(value)}</td>'


def facts(title: str, fields: Mapping[str, object]) -> str:
    """A title and the fields that have a value, one a line."""
    given = [(name, value) for name, value in fields.items() if value not in (None, [], {}, "")]
    return f"<b>{text(title)}</b>{table(('', ''), given)}"


class Images:
    """Thumbnails that go into one output, as long as there is room for them."""

    def __init__(self) -> None:
        self._left = MAX_IMAGES_BYTES

    def shown(self, uri: object, title: object) -> str:
        """The image; a frame with its title where it is no thumbnail, or the output is full."""
        name = text(title)
        box = "width:72px;height:72px;margin:2px;display:inline-block;overflow:hidden;font-size:9px"
        if not isinstance(uri, str) or len(uri) > min(MAX_IMAGE_BYTES, self._left) or not _IMAGE.fullmatch(uri):
            return f'<span style="{box};border:1px solid #8888" title="{name}">{name}</span>'
        self._left -= len(uri)
        return f'<img src="{uri}" alt="{name}" title="{name}" style="{box};object-fit:contain">'


def sheet(clusters: Sequence[Mapping[str, object]], per_cluster: int) -> str:
    """A line of thumbnails for each cluster: the members that are nearest to its centroid."""
    images, lines = Images(), []
    for each in clusters[:MAX_ROWS]:
        members = each.get("nearest")
        chosen = members[:per_cluster] if isinstance(members, list) else []
        label = each.get("label") or each.get("majority")
        head = f"<b>{text(each.get('cluster'))}</b> {text(each.get('size'))} images {text(label)}"
        shown = "".join(images.shown(one.get("thumbnail"), one.get("image_path")) for one in chosen)
        lines.append(f'<div style="margin:4px 0"><div>{head}</div>{shown}</div>')
    return "".join(lines)
