"""The four dashboards: what a team looks at, from all experiments down to one worker, and the operator beside it."""

from __future__ import annotations

from monitoring import experiment, fleet, operator, worker

DASHBOARDS = tuple(part.DASHBOARD for part in (fleet, experiment, worker, operator))
