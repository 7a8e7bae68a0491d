"""Every error that the SDK raises on purpose; each message names the field, the value and the fix."""

from __future__ import annotations


class RapidFireError(Exception):
    """Base of the errors that are meant for the user."""


class ConfigError(RapidFireError, ValueError):
    """A config that cannot be run as it is written.

    Attributes:
        path: Where, such as `spec.configs[0].config.training_args.learning_rte`.
        message: What is wrong there and what to write instead, without the path.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


class ClusterNotFoundError(RapidFireError):
    """There is no cluster to talk to, or it does not answer."""


class VolumeError(RapidFireError):
    """The volume service refused a request or could not be reached."""


class BundleError(RapidFireError):
    """A Python object cannot be sent to the workers."""


class DataError(RapidFireError, ValueError):
    """A data set cannot be sent to the workers."""


class ExperimentError(RapidFireError):
    """An experiment was refused, vanished, or has no such run."""
