"""Logs as one JSON object a line on standard error."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any, TextIO, cast

import structlog


class Lossy:
    """A stream that drops what cannot be written: a log on a full disk must not end the process that writes it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, or drop it."""
        with contextlib.suppress(OSError, ValueError):
            try:
                descriptor = self._stream.fileno()
            except (OSError, ValueError, AttributeError):
                self._stream.write(text)
            else:
                # Past the stream's buffer, which would keep what it cannot write and fail with it again and again.
                os.write(descriptor, text.encode(errors="backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure(service: str, *, level: str = "info") -> None:
    """Log JSON lines that name ``service``.

    Bind fields that all lines carry, such as a job's id, with ``structlog.contextvars``.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    stream = cast(TextIO, Lossy(sys.stderr))
    number = logging.getLevelNamesMapping()[level.upper()]
    # The same list each time: a logger in use keeps the one that it began with.
    processors = structlog.get_config()["processors"]
    processors[:] = [*shared, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    # Libraries that log through the standard library get lines of the same form.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.INFO), force=True)
    structlog.contextvars.bind_contextvars(service=service)
