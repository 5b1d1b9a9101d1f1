"""What happens to rows between the transform and k-means: from the nearest rows of every row."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from shoal.schemas.base import Request

REDUCE_TEXT = (
    "How rows change before k-means, from the rows nearest to each by cosine; null for not at all. A text is the "
    "method with its defaults. Scored sets and new images follow the train rows nearest to them; they change nothing."
)
NEIGHBOURS: Final = {"smooth": 10}


class ReduceOptions(Request):
    """A method that uses the nearest rows of every row; its name stands for the method with its defaults."""

    method: Literal["smooth"] = Field(
        description="`smooth`: each row becomes the mean of itself and its nearest rows, scaled to unit length."
    )
    neighbours: int | None = Field(
        None, ge=1, le=200, description="Nearest rows of each row that count; by default 10."
    )
    steps: int | None = Field(
        None, ge=1, le=4, description="For `smooth`: how often rows become means; by default once."
    )

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
