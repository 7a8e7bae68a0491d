"""Data sets of a notebook or of this machine's disk -> one Parquet file by digest, or a URI that workers can read."""

from __future__ import annotations

import glob
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol, runtime_checkable

from pydantic import ValidationError

from rapidfireai.api.data import DataSource
from rapidfireai.errors import DataError

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_NO_ROWS = "corresponds to no data"
"""How the datasets library says that a file is empty."""
_BLOCK = 1 << 20


@runtime_checkable
class Dataset(Protocol):
    """What is needed of a Hugging Face `datasets.Dataset`."""

    @property
    def num_rows(self) -> int:
        """How many rows it has."""
        ...

    def to_parquet(self, path_or_buf: str) -> int:
        """Write it to a file."""
        ...


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data set as a file that is to be uploaded.

    Attributes:
        path: The Parquet file.
        digest: Its sha256.
        rows: How many rows it has.
    """

    path: Path
    digest: str
    rows: int

    def source(self) -> DataSource:
        """Return where workers find it once it was uploaded."""
        return DataSource(uri=f"blob://sha256/{self.digest}")


def resolve(value: object, name: str, directory: Path) -> DataSource | DataFile:
    """Return where a data set lies, or a file of it that is to be uploaded.

    Args:
        value: A `datasets.Dataset`; a path of this machine (a file, a directory or a pattern); a URI that workers read;
            or a mapping with `uri` and, of an `hf://` one, `config`, `revision` and `split`.
        name: The argument that it was given as, for messages.
        directory: Where the file may be written.

    Raises:
        DataError: If it is none of these, does not exist, or has no rows.
    """
    if isinstance(value, DataSource):
        return value
    if isinstance(value, Mapping) and "uri" in value:
        return _source(dict(value), name)
    if isinstance(value, str) and _SCHEME.match(value):
        return _source({"uri": value}, name)
    if isinstance(value, str | PurePath):
        value = _read(os.fspath(value), name)
    if not isinstance(value, Dataset):
        raise DataError(f"{name}: {_why_not(value)}")
    if value.num_rows == 0:
        raise DataError(f"{name}: has no rows")
    path = directory / f"{name}.parquet"
    try:
        with _quietly():
            value.to_parquet(str(path))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{name}: cannot be written as Parquet: {error}") from error
    return DataFile(path, digest_of(path), value.num_rows)


def _source(given: dict[str, object], name: str) -> DataSource:
    try:
        source = DataSource.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{name}: {field}: {first['msg'].removeprefix('Value error, ')}; it is {first['input']!r}"
        ) from error
    if (source.config or source.revision) and not source.uri.startswith("hf://"):
        raise DataError(f"{name}: config and revision belong to an hf:// data set; leave them out")
    return source


def _read(path: str, name: str) -> Dataset:
    """Return the rows of this machine's files."""
    files = _files(Path(path).expanduser(), name)
    kinds = {_BUILDERS[suffix_of(file)]: file for file in files}
    if len(kinds) > 1:
        mixed = ", ".join(sorted(file.name for file in kinds.values()))
        raise DataError(f"{name}: {path} mixes kinds of files ({mixed}); name those of one kind, as with *.jsonl")
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        fix = "pip install datasets, or put the files on a claim and write pvc://CLAIM/path"
        raise DataError(f"{name}: reading {path} needs the package datasets: {fix}") from error
    names = [glob.escape(str(file)) for file in files]  # the library takes them for patterns
    try:
        with _quietly():
            rows: Dataset = library.load_dataset(next(iter(kinds)), data_files=names, split="train")
    except Exception as error:  # whatever is wrong with the user's file
        cause = error.__cause__ or error
        if isinstance(cause, StopIteration) or _NO_ROWS in str(cause):
            raise DataError(f"{name}: {path} has no rows") from error
        raise DataError(f"{name}: {path} cannot be read: {type(cause).__name__}: {cause}") from error
    return rows


def _files(path: Path, name: str) -> list[Path]:
    if path.is_dir():
        inside = ((file, file.relative_to(path).parts) for file in path.rglob("*") if file.is_file())
        found = [file for file, parts in inside if not any(part.startswith((".", "_")) for part in parts)]
        found = sorted(file for file in found if suffix_of(file) in _BUILDERS)
    elif path.exists():
        found = [path]
    else:
        found = sorted(Path(each) for each in glob.glob(str(path), recursive=True) if Path(each).is_file())  # noqa: PTH207
        if not found:
            raise DataError(
                f"{name}: {str(path)!r} does not exist here; correct the path, or write a URI that workers read, such "
                "as pvc://CLAIM/path or hf://owner/name"
            )
    unknown = [file.name for file in found if suffix_of(file) not in _BUILDERS]
    if unknown or not found:
        what = f"{unknown[0]} is no" if unknown else "holds no"
        raise DataError(f"{name}: {str(path)!r}: {what} file that ends in {', '.join(_BUILDERS)} (.gz may follow)")
    return found


def suffix_of(path: PurePath) -> str:
    """Return what tells a file's kind, without what says that it is compressed."""
    return PurePath(path.name.removesuffix(".gz")).suffix


def digest_of(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the library's own progress bar out of sight: the upload that follows has one."""
    library = sys.modules.get("datasets")
    if library is None or library.are_progress_bars_disabled():
        yield
        return
    library.disable_progress_bars()
    try:
        yield
    finally:
        library.enable_progress_bars()


def _why_not(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"is a {kind} of splits; choose one of them: {', '.join(map(str, value))}"
    if kind == "IterableDataset":
        return "a streaming data set has no length to cut into chunks; load it without streaming=True"
    if isinstance(value, list):
        return "is a list; write datasets.Dataset.from_list(rows)"
    if kind == "DataFrame":
        return "is a pandas DataFrame; write datasets.Dataset.from_pandas(frame)"
    return f"must be a datasets.Dataset, a path or a URI, not {kind}"
