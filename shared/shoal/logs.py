"""Logs as one JSON object a line on standard error."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(service: str, *, level: int = logging.INFO) -> None:
    """Have this process log JSON lines that name ``service``.

    Bind what all lines should carry, such as a job's id, with ``structlog.contextvars``.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
