"""What the middlewares share: reading a request's headers, answering with a problem."""

from __future__ import annotations

from typing import Final

from starlette.types import Receive, Scope, Send

from shoal.errors import ShoalError
from shoal.web.problems import shoal_problem

BODY: Final = "shoal.body"
"""Where a request's scope has its body. Starlette would copy it, on the event loop."""


def header_values(scope: Scope, name: str) -> list[str]:
    """Every value that was sent for the header ``name``, given in lower case."""
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key == wanted]


async def refuse(error: ShoalError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with ``error`` as a problem; what is left of the request is not read."""
    await shoal_problem(error)(scope, receive, send)
