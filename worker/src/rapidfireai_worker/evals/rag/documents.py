"""The documents of a rag: loaded once for an experiment, split, and kept beside the index."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from langchain_core.documents import Document

from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.durable import sync, sync_directory
from rapidfireai_worker.engine import RunFailure

_SCHEMA = pa.schema([("id", pa.string()), ("page_content", pa.large_string()), ("metadata", pa.large_string())])
_TEXTS = ("page_content", "text")
"""Columns of `data.documents` that hold the text, the first that is there."""
_BLOCK = 1024
"""Documents a record batch."""


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents as they were loaded for an experiment.

    Attributes:
        path: The file that they are in.
        digest: The sha256 of all of them, in their order.
        count: How many there are.
    """

    path: Path
    digest: str
    count: int


def collected(directory: Path, documents: Iterable[Document], field: str) -> Collection:
    """Return what was loaded for an experiment, loading it now if nobody did.

    Args:
        directory: Where the experiment keeps it; made whole by a rename.
        documents: What loads them; not looked at if they are there.
        field: The field that names the loader or the data set, for messages.

    Raises:
        RunFailure: If they cannot be loaded, or there are none.
    """
    if not directory.is_dir():
        temporary = directory.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            temporary.mkdir(parents=True)
            digest, count = write_documents(temporary / "documents.arrow", documents)
            (temporary / "collection.json").write_text(json.dumps({"digest": digest, "count": count}))
            if count == 0:
                raise RunFailure(
                    "DocumentsEmpty",
                    f"{field}: has no documents; correct its path or pattern, or put some there",
                )
            publish(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # it has its name by now, or there is nothing to keep
    said = json.loads((directory / "collection.json").read_text())
    return Collection(directory / "documents.arrow", said["digest"], said["count"])


def loaded(loaders: Sequence[Any], field: str) -> Iterator[Document]:
    """Yield the documents of loaders, one after another.

    Raises:
        RunFailure: If one of them fails or is no loader.
    """
    for number, loader in enumerate(loaders):
        where = field if len(loaders) == 1 else f"{field}[{number}]"
        name = type(loader).__name__
        if not (hasattr(loader, "lazy_load") or hasattr(loader, "load")):
            raise RunFailure(
                "InvalidConfig", f"{where}: {name} is no LangChain document loader: it has neither load nor lazy_load"
            )
        try:
            for document in loader.lazy_load() if hasattr(loader, "lazy_load") else loader.load():
                yield _checked(document, where, name)
        except (RunFailure, GeneratorExit):
            raise
        except Exception as error:
            if is_of_the_machine(error):
                raise
            message = (
                f"{where}: {name} raised {type(error).__name__}: {error}; the worker has to reach what it loads, as "
                "under pvc:// or a mounted path"
            )
            raise RunFailure("DocumentsUnreadable", message[:4096]) from error


def rows_as_documents(rows: Any, field: str) -> Iterator[Document]:
    """Yield the rows of a data set as documents: `page_content` or `text` is the text, every other column metadata.

    Raises:
        RunFailure: If there is no such column.
    """
    text = next((name for name in _TEXTS if name in rows.column_names), None)
    if text is None:
        raise RunFailure(
            "DocumentsUnreadable",
            f"{field}: rows have the columns {sorted(rows.column_names)}; the text has to be in text or page_content",
        )
    for row in rows:
        content = row.pop(text)
        if content is not None and str(content).strip():
            yield Document(str(content), metadata=row)


def split(documents: Iterable[Document], splitter: Any, field: str) -> Iterator[Document]:
    """Yield the chunks of documents, in order; the documents themselves without a splitter.

    Raises:
        RunFailure: If the splitter fails or is none.
    """
    if splitter is None:
        yield from documents
        return
    name = type(splitter).__name__
    if isinstance(splitter, type) or not (hasattr(splitter, "split_documents") or hasattr(splitter, "split_text")):
        raise RunFailure(
            "InvalidConfig", f"{field}: must be an instance of a LangChain text splitter, not {splitter!r}"[:4096]
        )
    for document in documents:
        try:
            chunks = _chunks(splitter, document)
        except Exception as error:
            if is_of_the_machine(error):
                raise
            raise RunFailure(
                "DocumentsUnreadable", f"{field}: {name} raised {type(error).__name__}: {error}"[:4096]
            ) from error
        yield from chunks


def write_documents(path: Path, documents: Iterable[Document]) -> tuple[str, int]:
    """Write documents to a file that can be memory-mapped; return the sha256 of their content and their number."""
    digest, count = hashlib.sha256(), 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        block: list[tuple[str, str, str]] = []
        for document in documents:
            metadata = json.dumps(document.metadata, sort_keys=True, default=_plain, ensure_ascii=False)
            digest.update(json.dumps([document.page_content, metadata]).encode() + b"\n")
            block.append((str(document.id or count), document.page_content, metadata))
            count += 1
            if len(block) == _BLOCK:
                writer.write_batch(_batch(block))
                block = []
        if block:
            writer.write_batch(_batch(block))
    return digest.hexdigest(), count


class StoredDocuments(Sequence[Document]):
    """Documents in a file, memory-mapped: whoever reads one pays for one, and the pages are shared by processes.

    Args:
        path: What `write_documents` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        identifier, text, metadata = (self._table.column(name)[int(index)].as_py() for name in _SCHEMA.names)
        return Document(text, id=identifier, metadata=json.loads(metadata))


def publish(temporary: Path, directory: Path) -> bool:
    """Give a whole directory its name, durably; return False if somebody else's was there first.

    Raises:
        OSError: If it cannot be written.
    """
    for path in temporary.iterdir():
        sync(path)
    sync_directory(temporary)
    try:
        temporary.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise
        return False
    sync_directory(directory.parent)
    return True


def _checked(document: Any, field: str, name: str) -> Document:
    if not isinstance(document, Document):
        raise RunFailure(
            "DocumentsUnreadable",
            f"{field}: {name} yielded {type(document).__name__}; loaders yield LangChain documents",
        )
    return document


def _chunks(splitter: Any, document: Document) -> list[Document]:
    if hasattr(splitter, "split_documents"):
        return list(splitter.split_documents([document]))
    pieces = splitter.split_text(document.page_content)
    return [
        Document(each.page_content, metadata={**document.metadata, **each.metadata})
        if isinstance(each, Document)
        else Document(each, metadata=dict(document.metadata))
        for each in pieces
    ]


def _batch(block: list[tuple[str, str, str]]) -> pa.RecordBatch:
    columns = [list(column) for column in zip(*block, strict=True)]
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], _SCHEMA
    )


def _plain(value: Any) -> Any:
    """Return what JSON does not know as JSON: numbers of numpy as numbers, anything else as its text."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return str(value)
