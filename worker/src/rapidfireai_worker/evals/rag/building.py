"""Building an index: documents split, embedded and stored, whole or not at all."""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from langchain_core.documents import Document

from rapidfireai_worker.engine import ChunkControl, Discarded, RunFailure
from rapidfireai_worker.evals.rag.documents import StoredDocuments, publish, split, write_documents
from rapidfireai_worker.evals.rag.embedders import SharedEmbeddings
from rapidfireai_worker.evals.rag.identity import version
from rapidfireai_worker.evals.rag.index import DOCUMENTS, SMALL, VECTORS, as_array, empty_index, write_index
from rapidfireai_worker.evals.rag.spec import FORMAT, RagSpec
from rapidfireai_worker.evals.rag.stores import reached
from rapidfireai_worker.failures import storage_failure
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.measures import INDEX_CHUNKS, INDEX_SECONDS

MANIFEST, _USED = "index.json", ".used"
_log = structlog.get_logger(__name__)
_building: dict[str, threading.Lock] = {}
_guard = threading.Lock()


def is_built(spec: RagSpec, volume: Volume) -> bool:
    """Return whether nothing has to be built: the index is on the volume and whole, or none is needed."""
    return spec.digest is None or manifest_of(volume.indexes / spec.digest) is not None


def manifest_of(directory: Path) -> dict[str, Any] | None:
    """Return what an index says of itself, or None if it is not there or not whole."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
        whole = manifest["format"] == FORMAT and all(
            (directory / name).stat().st_size == size for name, size in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if whole else None


def mark_used(directory: Path) -> None:
    """Note that an index is still of use; what nobody used for long may be removed."""
    try:
        (directory / _USED).touch()
    except OSError as error:
        _log.warning("cannot note that an index is used", path=str(directory), error=str(error))


def build(spec: RagSpec, volume: Volume, control: ChunkControl) -> None:
    """Build the index of a rag, unless it is there.

    `control.report` gets `Documents` and `Documents Indexed` (chunks) after each batch. Of two builders one is first,
    and the other finds it done.

    Raises:
        RunFailure: If documents cannot be split, embedded or stored, naming the field and the fix.
        Discarded: If `control.discard` or `control.park` was set: nothing of it is kept.
    """
    if spec.digest is None:
        return
    directory = volume.indexes / spec.digest
    with _alone(spec.digest):
        if manifest_of(directory) is None:
            temporary = volume.indexes / f".tmp-{uuid.uuid4().hex}"
            try:
                temporary.mkdir(parents=True)
                _make(spec, temporary, control)
                _finish(temporary, directory)
            except OSError as error:
                raise storage_failure(error, f"index {spec.digest[:12]}") from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)  # it has its name by now, or is of no use
        mark_used(directory)


def _finish(temporary: Path, directory: Path) -> None:
    if directory.is_dir() and manifest_of(directory) is None:  # damaged: nobody can have it open to any use
        directory.rename(temporary.with_name(f"{temporary.name}-damaged"))
        shutil.rmtree(temporary.with_name(f"{temporary.name}-damaged"), ignore_errors=True)  # garbage all the same
    publish(temporary, directory)


def _make(spec: RagSpec, directory: Path, control: ChunkControl) -> None:
    begun = time.monotonic()
    assert spec.collection is not None  # noqa: S101 - an index has documents
    chunks, count = _split(spec, directory, control)
    embeddings = spec.embedding.made() if spec.embedding is not None else None
    progress = _Progress(control, count, spec.store.batch)
    if spec.store.is_faiss:
        assert embeddings is not None  # noqa: S101 - the spec says so
        exact = spec.gpu or count <= SMALL
        kind = "exact" if exact else "hnsw"
        dimension: int | None = _write_vectors(chunks, embeddings, directory, progress, exact=exact)
    else:
        kind = spec.store.kind.__name__ if spec.store.kind is not None else ""
        dimension = _fill(spec, chunks, embeddings, progress)
    seconds = round(time.monotonic() - begun, 3)
    manifest: Mapping[str, Any] = {
        "format": FORMAT,
        "made_of": spec.made_of,
        "kind": kind,
        "dimension": dimension,
        "documents": spec.collection.count,
        "chunks": count,
        "seconds": seconds,
        "versions": {name: version(name) for name in ("faiss-cpu", "faiss-gpu-cu12", "langchain-core")},
        "files": {path.name: path.stat().st_size for path in sorted(directory.iterdir())},
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1))
    INDEX_SECONDS.observe(seconds)
    INDEX_CHUNKS.inc(count)
    _log.info("index built", digest=spec.digest, kind=kind, chunks=count, dimension=dimension, seconds=seconds)


def _split(spec: RagSpec, directory: Path, control: ChunkControl) -> tuple[StoredDocuments, int]:
    assert spec.collection is not None  # noqa: S101 - an index has documents

    def chunks() -> Iterator[Document]:
        for chunk in split(StoredDocuments(spec.collection.path), spec.splitter, f"{spec.field}.text_splitter"):  # type: ignore[union-attr]
            _stop_if_asked(control)
            yield chunk

    _, count = write_documents(directory / DOCUMENTS, chunks())
    if count == 0:
        raise RunFailure(
            "DocumentsEmpty",
            f"{spec.field}.text_splitter: left nothing of {spec.collection.count} documents; do they have text?",
        )
    return StoredDocuments(directory / DOCUMENTS), count


class _Progress:
    """Walks through chunks batch by batch, tells how far it is, and stops where it is asked to."""

    def __init__(self, control: ChunkControl, total: int, batch: int) -> None:
        self._control = control
        self._total = total
        self._batch = batch

    def batches(self, chunks: StoredDocuments) -> Iterator[tuple[int, list[Document]]]:
        self._report(0)
        for start in range(0, self._total, self._batch):
            _stop_if_asked(self._control)
            yield start, chunks[start : start + self._batch]
            self._report(min(start + self._batch, self._total))

    def _report(self, done: int) -> None:
        self._control.report(0, {"Documents Indexed": float(done), "Documents": float(self._total)})


def _write_vectors(
    chunks: StoredDocuments, embeddings: SharedEmbeddings, directory: Path, progress: _Progress, *, exact: bool
) -> int:
    index: Any = None
    for _, batch in progress.batches(chunks):
        vectors = as_array(embeddings.embed_documents([each.page_content for each in batch]))
        if index is None:
            index = empty_index(vectors.shape[1], exact=exact)
        if vectors.shape[1] != index.d:
            raise RunFailure(
                "EmbeddingFailed", f"the embedder returned vectors of {index.d} and of {vectors.shape[1]} numbers"
            )
        index.add(vectors)
    write_index(directory / VECTORS, index)
    return int(index.d)


def _fill(
    spec: RagSpec, chunks: StoredDocuments, embeddings: SharedEmbeddings | None, progress: _Progress
) -> int | None:
    """Put the chunks into a collection of the user's store; a second try writes the same documents over them."""
    field = f"{spec.field}.vector_store"
    dimension = embeddings.dimension if embeddings is not None else None
    if spec.store.lasts:
        store = spec.store.opened(spec.digest, embeddings, field)
        for start, batch in progress.batches(chunks):
            add_documents(store, batch, start, spec.digest or "", field)
    return dimension


def add_documents(store: Any, batch: Sequence[Document], start: int, digest: str, field: str) -> None:
    """Add chunks to a store of the user's, under names that are theirs in whatever try.

    Raises:
        RunFailure: If the store refuses them or cannot be reached.
    """
    names = [f"{digest[:32]}-{start + place}" for place in range(len(batch))]
    reached(lambda: store.add_documents(list(batch), ids=names), type(store).__name__, field)


def _stop_if_asked(control: ChunkControl) -> None:
    if control.discard.is_set() or control.park.is_set():
        raise Discarded


@contextmanager
def _alone(digest: str) -> Iterator[None]:
    """Keep two threads of this process from building the same index; of two processes the rename chooses one."""
    with _guard:
        lock = _building.setdefault(digest, threading.Lock())
    with lock:
        yield
