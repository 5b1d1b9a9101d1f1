"""What the clients return as tables: for Arrow, pandas and polars, and as HTML in a notebook."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from shoal import notebook
from shoal.errors import JsonValue
from shoal.figures import metrics_rows

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

T = TypeVar("T")


class Tabular:
    """Something with rows and columns."""

    def to_arrow(self) -> pa.Table:
        """As a table of pyarrow."""
        raise NotImplementedError

    def to_pandas(self) -> pd.DataFrame:
        """As a data frame of pandas.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise _missing("to_pandas", "pandas") from None
        return self.to_arrow().to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """As a data frame of polars.

        Raises
        ------
        ImportError
            polars is not installed.
        """
        try:
            import polars
        except ImportError:
            raise _missing("to_polars", "polars") from None
        return polars.DataFrame(self.to_arrow())

    def _repr_html_(self) -> str:
        shown = self.to_arrow()
        rows = shown.slice(0, notebook.MAX_ROWS).to_pylist()
        return notebook.table(shown.column_names, [list(row.values()) for row in rows], total=shown.num_rows)


def _missing(method: str, package: str) -> ImportError:
    return ImportError(
        f"`{method}` needs {package}: install it with `pip install {package}`, or `pip install 'shoal[notebook]'`.",
        name=package,
    )


class Table(Tabular):
    """A table of pyarrow."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def to_arrow(self) -> pa.Table:
        """As a table of pyarrow."""
        return self._table


def table_of(stream: bytes) -> Table:
    """The table of an answer that is an Arrow stream."""
    import pyarrow as pa

    return Table(pa.ipc.open_stream(stream).read_all())


class Rows(list[T], Tabular):
    """A list of rows, each a dict or a named tuple."""

    def to_arrow(self) -> pa.Table:
        """As a table of pyarrow; values that no column of one type holds are JSON texts."""
        import pyarrow as pa

        records = [_record(row) for row in self]
        names = dict.fromkeys(name for record in records for name in record)
        return pa.table({_written(name): _column([record.get(name) for record in records]) for name in names})


def _record(row: object) -> dict[str, JsonValue]:
    if isinstance(row, dict):
        return row
    if isinstance(row, tuple) and hasattr(row, "_asdict"):
        return dict(row._asdict())
    raise TypeError(f"{type(row).__name__} is no row")


def _column(values: Sequence[object]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.array([None if value is None else json.dumps(value) for value in values])
    except UnicodeEncodeError:
        # Lone surrogates, as odd file names have them.
        return pa.array([None if value is None else _written(value) for value in values])


def _written(value: object) -> str:
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="backslashreplace").decode()


class Facts(dict[str, JsonValue]):
    """One thing of the store: a dict that a notebook shows with its main figures."""

    def _repr_html_(self) -> str:
        means = self.get("metrics")
        plain = {name: value for name, value in self.items() if name not in {"id", "metrics", "links", "spec"}}
        shown = notebook.facts(str(self.get("id", "")), plain)
        if not isinstance(means, dict) or not means:
            return shown
        scored = (self.get("scored") or ["value"])[0]
        header, *rows = metrics_rows({"scored": {str(scored): {"mean": means, "std": {}}}})
        return shown + notebook.table(header, rows)


class ContactSheet(Rows[dict[str, JsonValue]]):
    """Clusters with the members nearest to their centroids: a list of dicts that a notebook shows as thumbnails."""

    def __init__(self, clusters: Iterable[dict[str, JsonValue]], images: int) -> None:
        super().__init__(clusters)
        self._images = images

    def _repr_html_(self) -> str:
        return notebook.sheet(self, self._images)
