"""`python -m rapidfireai_worker.volume`: the volume service."""

import sys

import structlog
import uvicorn

from rapidfireai_worker.logs import configure_logging
from rapidfireai_worker.settings import EnvironmentProblem, load
from rapidfireai_worker.volume.app import create_app
from rapidfireai_worker.volume.settings import VolumeSettings


def main() -> int:
    """Serve until told to stop; return the exit code."""
    configure_logging()
    try:
        settings = load(VolumeSettings)
    except EnvironmentProblem as problem:
        structlog.get_logger(__name__).critical(str(problem))
        return 2
    uvicorn.run(
        create_app(settings),
        host=settings.pod_ip,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
