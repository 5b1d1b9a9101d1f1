"""What happens to rows between the transform and k-means: from the nearest rows of every row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from shoal.schemas.base import Request

REDUCE_TEXT = (
    "How rows change before k-means, from the rows nearest to each by cosine; null for not at all. A text is the "
    "method with its defaults. Scored sets and new images follow the train rows nearest to them; they change nothing."
)
AUTO_REDUCE_TEXT = (
    "`auto` tries all of them and none on at most 10,000 rows, with `clusters`: `auto` at many numbers of clusters, "
    "and picks what keeps the most of each row's nearest rows together; labels play no part. The result says what was "
    "tried, and why one was picked."
)
TRIED: Final[tuple[Literal["smooth", "spectral", "umap"], ...]] = ("smooth", "spectral", "umap")
"""Methods that `auto` tries beside none."""
NEIGHBOURS: Final = {"smooth": 10, "spectral": 10, "umap": 15}
STEPS: Final = {"smooth": 1, "spectral": 12}
MOST_STEPS: Final = {"smooth": 4, "spectral": 1000}
COMPONENTS: Final = {"spectral": 64, "umap": 5}
"""Defaults and limits by method; those that a method does not take are missing."""


class ReduceOptions(Request):
    """A method that uses the nearest rows of every row; its name stands for the method with its defaults."""

    method: Literal["smooth", "spectral", "umap"] = Field(
        description="`smooth`: each row becomes the mean of itself and its mutual neighbours, scaled to unit length. "
        "`spectral`: rows get coordinates by a random walk on the graph of nearest rows, its leading eigenvectors. "
        "`umap`: rows get a place in a few dimensions, near to their nearest rows, by UMAP's forces."
    )
    neighbours: int | None = Field(
        None, ge=1, le=200, description="Nearest rows of each row that count; by default 10, or 15 for `umap`."
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="How often rows become means, 1 to 4, by default once; or steps of the random walk, by default 12.",
    )
    components: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="For `spectral` and `umap`: the most coordinates of a row; by default 64 and 5.",
    )

    @model_validator(mode="after")
    def _taken(self) -> ReduceOptions:
        if self.components is not None and self.method not in COMPONENTS:
            raise ValueError(f"`components` is for {_names(COMPONENTS)}")
        most = MOST_STEPS.get(self.method)
        if self.steps is not None and most is None:
            raise ValueError(f"`steps` is for {_names(STEPS)}")
        if self.steps is not None and most is not None and self.steps > most:
            raise ValueError(f"`steps` is at most {most} with `{self.method}`")
        return self

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, sent: object) -> object:
        """The options of a method that was sent by its name alone."""
        return {"method": sent} if isinstance(sent, str) else sent

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"enum": list(NEIGHBOURS), "type": "string"}]}

    @property
    def text(self) -> str:
        """The method, and what differs from its defaults."""
        sent = self.model_dump(exclude_none=True, exclude={"method"})
        return " ".join([self.method, *(f"{name}={value}" for name, value in sent.items())])

    @property
    def neighbour_count(self) -> int:
        """The nearest rows of each row, as sent or by default."""
        return self.neighbours or NEIGHBOURS[self.method]

    @property
    def step_count(self) -> int:
        """The steps, as sent or by default; 0 for a method without them."""
        return self.steps or STEPS.get(self.method, 0)

    @property
    def component_count(self) -> int | None:
        """The most coordinates, as sent or by default; None for as many as before."""
        return self.components or COMPONENTS.get(self.method)


class OptionsOrAuto:
    """Accepts `auto` besides `ReduceOptions`; errors of other values are those of options."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        unchanged = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        options = handler.generate_schema(ReduceOptions)
        return core_schema.no_info_wrap_validator_function(_auto_or, options, serialization=unchanged)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        options = handler(schema)
        return {"anyOf": [*options.get("anyOf", [options]), {"const": "auto", "type": "string"}]}


def _auto_or(value: object, check: Callable[[object], object]) -> object:
    return value if value == "auto" else check(value)


def _names(methods: dict[str, int]) -> str:
    return " and ".join(f"`{name}`" for name in methods)
