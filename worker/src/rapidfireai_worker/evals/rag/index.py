"""Our own index: FAISS, exact or HNSW, on the volume beside its documents; memory-mapped by those that search it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import structlog
from langchain_community.docstore.base import Docstore
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from rapidfireai_worker.evals.rag.documents import StoredDocuments
from rapidfireai_worker.evals.rag.embedders import SharedEmbeddings
from rapidfireai_worker.evals.rag.search import Search

SMALL = 1000
"""Up to so many chunks the index is always exact: HNSW would be no faster."""
VECTORS, DOCUMENTS = "index.faiss", "documents.arrow"
_M, _CONSTRUCTION, _SEARCH = 16, 64, 32
_log = structlog.get_logger(__name__)


def empty_index(dimension: int, *, exact: bool) -> Any:
    """Return an index of Euclidean distances: exact, or HNSW (M 16, efConstruction 64, efSearch 32)."""
    if exact:
        return faiss.IndexFlatL2(dimension)
    index = faiss.IndexHNSWFlat(dimension, _M)
    index.hnsw.efConstruction = _CONSTRUCTION
    index.hnsw.efSearch = _SEARCH
    return index


def as_array(vectors: Sequence[Sequence[float]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return vectors as FAISS takes them."""
    return np.ascontiguousarray(vectors, dtype=np.float32)


def write_index(path: Path, index: Any) -> None:
    """Write an index; whoever renames its directory makes it durable."""
    faiss.write_index(index, str(path))


def opened_index(path: Path) -> Any:
    """Return an index; vectors and the graph of HNSW are mapped, not read: processes of a machine share the pages."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)


def on_gpu(index: Any) -> Any:
    """Return a copy of an index on the GPU, or None where FAISS cannot search on one; the log says why."""
    obstacle = gpu_obstacle()
    if obstacle is not None:
        _log.info("enable_gpu_search: searching exactly, on the CPU", why=obstacle)
        return None
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def gpu_obstacle() -> str | None:
    """Return why FAISS cannot search on a GPU here, or None if it can."""
    if not hasattr(faiss, "StandardGpuResources"):
        return "this worker has faiss-cpu; an image with rapidfireai-worker[faiss-gpu] searches on the GPU"
    return None if faiss.get_num_gpus() > 0 else "there is no GPU"


class MappedDocuments(Docstore):
    """The documents of an index, for LangChain: the place in the index names the document.

    Args:
        documents: The documents, in the order of the vectors.
    """

    def __init__(self, documents: StoredDocuments) -> None:
        self._documents = documents

    def search(self, search: Any) -> Document:
        """Return the document at a place."""
        document: Document = self._documents[int(search)]
        return document


class _Places(dict[int, str]):
    """Every place's name is the place itself; a dictionary of a million entries would say no more."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def __missing__(self, place: int) -> str:
        if not 0 <= place < self._count:
            raise KeyError(place)
        return str(place)

    def __len__(self) -> int:
        return self._count


class Index:
    """An index that is open, for all runs and threads of the process.

    Args:
        directory: Where it lies.
        gpu: Search on a GPU if there is one.
    """

    def __init__(self, directory: Path, *, gpu: bool) -> None:
        self.documents = StoredDocuments(directory / DOCUMENTS)
        self._index = opened_index(directory / VECTORS)
        self._gpu = on_gpu(self._index) if gpu else None
        self._lock = threading.Lock()  # a GPU's resources serve one thread at a time

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU searches."""
        return self._gpu is not None

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        return int(self._index.d)

    def store(self, embeddings: SharedEmbeddings) -> FAISS:
        """Return the index as a vector store of LangChain, which searches on the CPU."""
        return FAISS(embeddings, self._index, MappedDocuments(self.documents), _Places(len(self.documents)))

    def found(self, store: FAISS, queries: Sequence[str], search: Search) -> list[list[Document]]:
        """Return the documents of each query, as LangChain's FAISS finds them, all queries at once.

        Args:
            store: What `store` returned.
            queries: The queries.
            search: How to search.
        """
        if not queries:
            return []
        vectors = as_array(store.embedding_function.embed_queries(queries))  # type: ignore[union-attr]
        mmr = search.type == "mmr"
        asked = search.fetch_k if mmr or search.filter is not None else search.k
        if mmr and search.filter is not None:
            asked *= 2  # as LangChain does: some of them are filtered out
        distances, places = self._search(vectors, min(asked, len(self.documents)))
        suits = None if search.filter is None else FAISS._create_filter_func(search.filter)
        chosen = [
            self._suitable(zip(row, near, strict=True), suits) for row, near in zip(places, distances, strict=True)
        ]
        if mmr:
            return [self._diverse(vector, each, search) for vector, each in zip(vectors, chosen, strict=True)]
        if search.type == "similarity_score_threshold":
            relevance = store._select_relevance_score_fn()
            chosen = [[pair for pair in each if relevance(pair[1]) >= search.score_threshold] for each in chosen]
        return [[self.documents[place] for place, _ in each[: search.k]] for each in chosen]

    def _search(self, vectors: Any, count: int) -> tuple[Any, Any]:
        if self._gpu is None:
            return self._index.search(vectors, count)  # type: ignore[no-any-return]
        with self._lock:
            return self._gpu.search(vectors, count)  # type: ignore[no-any-return]

    def _suitable(
        self, found: Iterable[tuple[Any, Any]], suits: Callable[[dict[str, Any]], bool] | None
    ) -> list[tuple[int, float]]:
        return [
            (int(place), float(distance))
            for place, distance in found
            if place >= 0 and (suits is None or suits(self.documents[int(place)].metadata))
        ]

    def _diverse(self, vector: Any, chosen: Sequence[tuple[int, float]], search: Search) -> list[Document]:
        if not chosen:
            return []
        vectors = [self._index.reconstruct(place) for place, _ in chosen]
        picked = maximal_marginal_relevance(vector, vectors, lambda_mult=search.lambda_mult, k=search.k)
        return [self.documents[chosen[each][0]] for each in picked]
