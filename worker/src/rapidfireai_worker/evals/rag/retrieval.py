"""What `preprocess_fn` gets as `rag`: documents for queries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.documents import Document

from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.rag.building import add_documents, manifest_of, mark_used
from rapidfireai_worker.evals.rag.documents import StoredDocuments
from rapidfireai_worker.evals.rag.embedders import SharedEmbeddings
from rapidfireai_worker.evals.rag.index import DOCUMENTS, Index
from rapidfireai_worker.evals.rag.rerankers import RERANKERS, Reranker
from rapidfireai_worker.evals.rag.spec import RagSpec
from rapidfireai_worker.evals.rag.stores import reached
from rapidfireai_worker.layout import Volume

_KEPT = 8
"""How many indexes stay open that nobody searches at the moment."""
_open: OrderedDict[tuple[str, bool], Any] = OrderedDict()
_guard = threading.Lock()


class Retrieval:
    """The rag of one run. It may be asked from several threads at once.

    Args:
        find: Returns the documents of each query.
        reranker: Reorders them; None to leave them.
        template: Writes a document as text.
        retriever: The retriever of LangChain that finds the same, one query after another.
        vector_store: What is searched; None for a retriever of the user's.
        spec: What it was made of.
        on_gpu: Whether a GPU searches.
    """

    def __init__(
        self,
        find: Callable[[Sequence[str]], list[list[Document]]],
        reranker: Reranker | None,
        template: Callable[[Document], str],
        retriever: Any,
        vector_store: Any,
        spec: RagSpec,
        *,
        on_gpu: bool = False,
    ) -> None:
        self._find = find
        self._reranker = reranker
        self._template = template
        self.retriever = retriever
        self.vector_store = vector_store
        self.search_type = spec.search.type
        self.search_kwargs = spec.search.kwargs(faiss=spec.store.is_faiss)
        self.reranker = None if reranker is None else reranker.compressor
        self.digest = spec.digest
        self.on_gpu = on_gpu

    def get_context(self, batch_queries: list[str], use_reranker: bool = True, serialize: bool = True) -> Any:
        """Return what is found for each query.

        Args:
            batch_queries: The queries.
            use_reranker: Reorder what is found, if the rag has a reranker.
            serialize: Return one text a query; otherwise a list of documents a query.

        Raises:
            TypeError: If the queries are not a list of texts.
            RunFailure: If the embedder, the store or the reranker fails.
        """
        if isinstance(batch_queries, str) or not all(isinstance(query, str) for query in batch_queries):
            raise TypeError(f"batch_queries must be a list of texts, not {batch_queries!r}"[:500])
        found = self._find(list(batch_queries))
        if use_reranker and self._reranker is not None:
            found = [self._reranker.rerank(each, query) for each, query in zip(found, batch_queries, strict=True)]
        return self.serialize_documents(found) if serialize else found

    def serialize_documents(self, batch_docs: list[list[Document]]) -> list[str]:
        """Return the documents of each query as one text, an empty line between two of them."""
        return ["\n\n".join(self._template(document) for document in documents) for documents in batch_docs]


def open_rag(spec: RagSpec, volume: Volume) -> Retrieval:
    """Open the rag of a run; its index is open once for all runs of the process that share it.

    Raises:
        RunFailure: If the index is not built, does not suit the embedder, or a part cannot be made.
    """
    reranker = None
    if spec.reranker is not None:
        kind, kwargs, key = spec.reranker
        reranker = RERANKERS.get(kind, kwargs, key, spec.field)
    template = Guarded(spec.template, "document_template") if spec.template is not None else written
    if spec.retriever is not None:
        return Retrieval(_asked(spec.retriever, spec, None), reranker, template, spec.retriever, None, spec)
    embeddings = spec.embedding.made() if spec.embedding is not None else None
    if spec.store.is_faiss:
        assert embeddings is not None  # noqa: S101 - the spec says so
        index: Index = _shared(spec, volume, lambda directory: Index(directory, gpu=spec.gpu))
        _check_dimension(index.dimension, embeddings, spec)
        store: Any = index.store(embeddings)
        find: Any = lambda queries: index.found(store, queries, spec.search)  # noqa: E731
        retriever = _retriever(store, spec, faiss=True)
        return Retrieval(find, reranker, template, retriever, store, spec, on_gpu=index.on_gpu)
    store = _own_store(spec, volume, embeddings)
    retriever = _retriever(store, spec, faiss=False)
    return Retrieval(_asked(retriever, spec, embeddings), reranker, template, retriever, store, spec)


def written(document: Document) -> str:
    """Return a document as text: `key: value; key: value:` of its metadata in a line of its own, then the content."""
    facts = "; ".join(f"{key}: {value}" for key, value in document.metadata.items())
    return f"{facts}:\n{document.page_content}" if facts else document.page_content


def close_all() -> None:
    """Let go of every index that is open."""
    with _guard:
        _open.clear()


def _shared(spec: RagSpec, volume: Volume, make: Callable[[Any], Any]) -> Any:
    assert spec.digest is not None  # noqa: S101 - who asks has an index
    directory = volume.indexes / spec.digest
    with _guard:
        key = (str(directory), spec.gpu)
        if key not in _open:
            if manifest_of(directory) is None:
                raise RunFailure(
                    "IndexMissing",
                    f"{spec.field}: index {spec.digest[:12]} is not on the volume, or was damaged; it is built again "
                    "when the run is resumed",
                    blame="Infrastructure",
                )
            _open[key] = make(directory)
            mark_used(directory)
        _open.move_to_end(key)
        while len(_open) > _KEPT:
            _open.popitem(last=False)  # whoever searches it holds it
        return _open[key]


def _own_store(spec: RagSpec, volume: Volume, embeddings: SharedEmbeddings | None) -> Any:
    field = f"{spec.field}.vector_store"
    if spec.digest is None:
        return spec.store.opened(None, embeddings, field)

    def make(directory: Any) -> Any:
        manifest = manifest_of(directory) or {}
        if embeddings is not None and manifest.get("dimension") is not None:
            _check_dimension(manifest["dimension"], embeddings, spec)
        store = spec.store.opened(spec.digest, embeddings, field)
        if not spec.store.lasts:  # it is in the memory of each process
            chunks = StoredDocuments(directory / DOCUMENTS)
            for start in range(0, len(chunks), spec.store.batch):
                add_documents(store, chunks[start : start + spec.store.batch], start, spec.digest or "", field)
        return store

    return _shared(spec, volume, make)


def _retriever(store: Any, spec: RagSpec, *, faiss: bool) -> Any:
    return store.as_retriever(search_type=spec.search.type, search_kwargs=spec.search.kwargs(faiss=faiss))


def _asked(retriever: Any, spec: RagSpec, embeddings: SharedEmbeddings | None) -> Any:
    field = f"{spec.field}.retriever" if spec.retriever is not None else f"{spec.field}.vector_store"

    def find(queries: Sequence[str]) -> list[list[Document]]:
        if embeddings is not None:
            embeddings.embed_queries(queries)  # all at once: the store asks for them one by one
        found = reached(lambda: retriever.batch(list(queries)), type(retriever).__name__, field)
        return [list(each) for each in found]

    return find


def _check_dimension(dimension: int, embeddings: SharedEmbeddings, spec: RagSpec) -> None:
    if embeddings.dimension != dimension:
        raise RunFailure(
            "InvalidConfig",
            f"{spec.field}.embedding_cls: its vectors have {embeddings.dimension} numbers and those of index "
            f"{(spec.digest or '')[:12]} {dimension}: the model behind the name has changed; name the one that the "
            f"index was built with, or remove indexes/{spec.digest} from the volume",
        )
