"""`python -m rapidfireai_worker`: a worker that trains or evaluates, as RAPIDFIRE_MODE says."""

from rapidfireai_worker.engine import Engine
from rapidfireai_worker.heap import share_one_heap
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.main import run
from rapidfireai_worker.settings import WorkerSettings


def _fit_engine(settings: WorkerSettings) -> Engine:
    # They import torch, in the thread that computes.
    from rapidfireai_worker.fit.engine import FitEngine  # noqa: PLC0415
    from rapidfireai_worker.fit.memory import measure  # noqa: PLC0415

    meter = measure(settings.memory_limit or None, settings.memory_budget or None)
    return FitEngine(Volume(settings.volume), settings.claims, settings.threads, meter)


def _evals_engine(settings: WorkerSettings) -> Engine:
    # Neither torch nor a trainer is imported before a run needs it.
    from rapidfireai_worker.evals.engine import EvalEngine  # noqa: PLC0415

    return EvalEngine(Volume(settings.volume), settings.claims, settings.threads, settings)


def _engine(settings: WorkerSettings) -> Engine:
    return _evals_engine(settings) if settings.mode == "evals" else _fit_engine(settings)


if __name__ == "__main__":
    share_one_heap()
    run(_engine)
