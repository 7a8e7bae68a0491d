"""What operator and gateway have in common as services: their logs and how the workspaces reach them."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import structlog
from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode


def _split(value: object) -> object:
    """Read the comma-separated names of the workspaces."""
    if isinstance(value, str):
        return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    return value


Namespaces = Annotated[tuple[str, ...], NoDecode, Field(min_length=1), BeforeValidator(_split)]
"""The workspaces, as a setting: comma-separated names, at least one."""


def configure_logs(*quiet: str) -> None:
    """Write JSON lines to standard error, those of other libraries included.

    Args:
        quiet: Loggers of which only warnings are shown.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)
