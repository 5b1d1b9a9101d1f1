"""Values that several settings share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode


def _comma_separated(value: Any) -> Any:
    """The text of a variable as the set of its parts; anything else unchanged."""
    return frozenset(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[frozenset[str], NoDecode, BeforeValidator(_comma_separated)]
"""Texts, separated by commas."""
# No shell expands `~` in quotes, in an .env file or in a systemd unit.
FolderOrFile = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path, which may begin with `~`."""


def read_secret(file: Path) -> str:
    """The secret in a file of one line.

    Raises
    ------
    ValueError
        The file cannot be read or is empty; the message names the file, never its content.
    """
    try:
        secret = file.read_text().strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {type(error).__name__}") from None
    if not secret:
        raise ValueError(f"{file} is empty")
    return secret
