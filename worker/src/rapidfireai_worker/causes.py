"""Whose fault it is, and where: errors of training as failures that a person can act on."""

from __future__ import annotations

import errno
import functools
import re
import traceback
from collections.abc import Callable
from typing import Any

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.failures import (
    MESSAGE_LIMIT,
    ends_the_process,
    is_out_of_memory,
    last_lines,
    storage_failure,
)
from rapidfireai_worker.failures import is_storage_full as os_says_full

_FULL_WORDS = ("(os error 28)", "(os error 122)", "No space left on device", "Disk quota exceeded")
"""How safetensors, which is not Python, says ENOSPC and EDQUOT."""
_ASKED = re.compile(r"allocate ([0-9.]+) (bytes|KiB|MiB|GiB|TiB)")
"""How torch and numpy name the bytes that they did not get."""
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class Guarded:
    """A function of the user's: its failure becomes a `RunFailure` that names the user's own line.

    Args:
        function: The function.
        role: What it is to the run, such as formatting_func.
    """

    def __init__(self, function: Callable[..., Any], role: str) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._role = role

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function.

        Raises:
            RunFailure: If it raises.
        """
        try:
            return self._function(*args, **kwargs)
        except RunFailure:
            raise
        except Exception as error:
            if is_of_the_machine(error):
                raise
            raise RunFailure("UserCodeError", self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        code = getattr(self._function, "__code__", None) or getattr(type(self._function).__call__, "__code__", None)
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
        where = f" at {own[-1].filename}:{own[-1].lineno}, in {own[-1].name}" if own else ""
        head = f"{self._role} raised {type(error).__name__}: {error}{where}\n"
        return (head + last_lines(error)[-(MESSAGE_LIMIT - len(head)) :])[:MESSAGE_LIMIT]


def is_storage_full(error: BaseException | None) -> bool:
    """Return whether `error`, or what caused it, says that a disk or a quota is full."""
    while error is not None:
        if os_says_full(error) or any(words in str(error) for words in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether `error` is about what the run computes on (memory, disk, device), whatever was being done."""
    return ends_the_process(error) or is_out_of_memory(error) or is_storage_full(error)


def as_os_error(error: BaseException) -> OSError:
    """Return `error`, which may be safetensors' own, as the operating system's."""
    if isinstance(error, OSError):
        return error
    return OSError(errno.ENOSPC if is_storage_full(error) else errno.EIO, str(error))


class NoMemory(RunFailure):
    """Memory ran out in an attempt.

    Args:
        doing: What was being done.
        error: What was raised.

    Attributes:
        asked: The bytes of the request that failed, if the error names them.
    """

    def __init__(self, doing: str, error: BaseException) -> None:
        words = f"{type(error).__name__}: {error}"
        super().__init__("OutOfMemory", f"memory ran out while {doing}: {words}"[:MESSAGE_LIMIT])
        self.doing = doing
        found = _ASKED.search(words)
        self.asked = None if found is None else int(float(found[1]) * _UNITS[found[2]])


def training_failure(error: BaseException, doing: str) -> RunFailure:
    """Return what stopped a run as a failure of its attempt.

    Args:
        error: What was raised.
        doing: What was being done, for the message.

    Raises:
        BaseException: `error` itself, if the process cannot be trusted after it.
    """
    if isinstance(error, RunFailure):
        return error
    if ends_the_process(error):
        raise error
    if is_storage_full(error):
        return storage_failure(as_os_error(error), doing)
    if is_out_of_memory(error):
        return NoMemory(doing, error)
    if isinstance(error, (ValueError, TypeError, KeyError, ImportError)) and doing.startswith("building"):
        return RunFailure("InvalidConfig", f"{doing}: {type(error).__name__}: {error}"[:MESSAGE_LIMIT])
    return RunFailure("TrainingError", f"{doing}: {last_lines(error)}"[-MESSAGE_LIMIT:])
