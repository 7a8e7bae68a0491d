"""The exceptions that notebooks catch, by the names that they know.

`ExperimentException` is the base of everything that this package raises on purpose.
"""

from __future__ import annotations

from rapidfireai.errors import ConfigError, RapidFireError

ExperimentException = RapidFireError
AutoMLException = ConfigError


class NeverRaisedError(RapidFireError):
    """What cannot happen here: there is no database, no controller process, no need for a GPU or for shared memory.

    What goes wrong on the cluster is a condition of the experiment, or the `error` of a run.
    """


ControllerException = NeverRaisedError
WorkerException = NeverRaisedError
DBException = NeverRaisedError
NoGPUsFoundException = NeverRaisedError
InsufficientSharedMemoryException = NeverRaisedError
