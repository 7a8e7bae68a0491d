"""Where errors become sentences: the boundary between the commands and the person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

_LOCAL_EXTRA = frozenset({"aiohttp", "cryptography", "huggingface_hub", "psutil", "pynvml"})


@contextmanager
def sentences() -> Iterator[None]:
    """Print an error that is meant for people as one, and exit with code 1."""
    try:
        from rapidfireai.cluster.binary import BinaryError
        from rapidfireai.errors import RapidFireError

        try:
            yield
        except (RapidFireError, BinaryError) as error:
            fail(str(error))
    except ModuleNotFoundError as error:
        if error.name not in _LOCAL_EXTRA:
            raise
        fail(f"the local cluster needs the package {error.name}: pip install 'rapidfireai[local]'")


def fail(message: str) -> NoReturn:
    """Print an error and exit with code 1."""
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1)
