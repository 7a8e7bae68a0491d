"""What went wrong, as something that a person can act on."""

from __future__ import annotations

import errno
import os
import traceback

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.redaction import redact

MESSAGE_LIMIT = 4096
"""Characters of an error message that the resource takes."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "(os error 12)",
)
"""How torch's allocator of the CPU, CUDA and its libraries, and what is written in Rust say that memory ran out."""


def ends_the_process(error: BaseException) -> bool:
    """Return whether nothing can be trusted after `error`: a CUDA context that is broken for good.

    torch's errors are told by their names, so that nobody has to import torch to ask.
    """
    return type(error).__name__ == "AcceleratorError" and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether `error`, or what caused it, says that memory ran out, on the host or on a device."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_storage_full(error: BaseException) -> bool:
    """Return whether `error` says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def storage_failure(error: OSError, what: str) -> RunFailure:
    """Return the failure of an attempt whose files could not be written.

    Args:
        error: What the operating system said.
        what: What was being written.
    """
    if is_storage_full(error):
        message = f"no space left on the volume for {what}; free some or enlarge the claim, the chunk is tried again"
        return RunFailure("StorageFull", message, blame="Infrastructure")
    return RunFailure("StorageUnavailable", f"cannot write {what}: {error}", blame="Infrastructure")


def failure_of(error: BaseException) -> RunFailure:
    """Return `error` as the failure of an attempt; whatever nobody foresaw is the run's, with its last lines."""
    if isinstance(error, RunFailure):
        return error
    if isinstance(error, OSError) and is_storage_full(error):
        return storage_failure(error, error.filename or "the run's files")
    if is_out_of_memory(error):
        return RunFailure("OutOfMemory", last_lines(error))
    return RunFailure("UnexpectedError", last_lines(error))


def last_lines(error: BaseException) -> str:
    """Return the end of the traceback, as much as a message takes, the exception itself always whole first."""
    text = "".join(traceback.format_exception(error)).strip()
    return text if len(text) <= MESSAGE_LIMIT else "... " + text[-(MESSAGE_LIMIT - 4) :]


def presentable(message: str) -> str:
    """Return the message as the resource takes it: without secrets that this process holds, and not too long."""
    message = redact(message, os.environ)
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 4] + " ..."
