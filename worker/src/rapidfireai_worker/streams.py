"""Standard output and error of a worker: whatever user code or a library prints, without the secrets it holds."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO, cast

from rapidfireai_worker.redaction import redact


class RedactedStream:
    """A text stream that writes to another one what is left of a text without secrets.

    What is written at once is looked at as a whole: a secret that is written in pieces passes. Bytes that go past the
    text stream (`os.write`, a library in C) do so as well.

    Args:
        stream: Where the text goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text and return its length, as the caller counts it."""
        self._stream.write(redact(text, os.environ))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_prints() -> None:
    """Let nothing that is printed from now on show a secret."""
    sys.stdout, sys.stderr = (cast("TextIO", RedactedStream(stream)) for stream in (sys.stdout, sys.stderr))
