"""`python -m rapidfireai_operator`: read the settings, hand over to kopf."""

from __future__ import annotations

import sys

import kopf
import structlog
from pydantic import ValidationError

from rapidfireai.service import configure_logs
from rapidfireai_operator.operator import Operator
from rapidfireai_operator.settings import Settings


def main() -> int:
    """Run the operator until it is told to stop; return the exit code."""
    configure_logs("kopf.objects", "kopf._core.engines.peering")
    try:
        settings = Settings()
    except ValidationError as error:
        for mistake in error.errors():
            name = "RAPIDFIRE_" + "_".join(str(part) for part in mistake["loc"]).upper()
            structlog.get_logger(__name__).error("setting refused", variable=name, problem=mistake["msg"])
        return 2
    # Importing them registers kopf's functions.
    from rapidfireai_operator.handlers import activities, watches  # noqa: F401, PLC0415

    kopf.run(standalone=True, namespaces=settings.namespaces, memo=kopf.Memo(operator=Operator(settings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
