"""What a rag is made of, resolved and checked: the index that it needs, and how it is searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfireai.config_fields import CLASS, KWARGS, REF
from rapidfireai_worker.engine import RunFailure, RunJob
from rapidfireai_worker.evals.rag.documents import Collection, collected, loaded, rows_as_documents
from rapidfireai_worker.evals.rag.embedders import EMBEDDERS, SharedEmbeddings, check_embedding_class
from rapidfireai_worker.evals.rag.identity import digest_of, identity, package_of, version
from rapidfireai_worker.evals.rag.rerankers import check_reranker_class, check_top_n
from rapidfireai_worker.evals.rag.search import Search, search_of
from rapidfireai_worker.evals.rag.stores import Store, store_of
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rows.library import DataLibrary
from rapidfireai_worker.rows.places import located
from rapidfireai_worker.user_code.bundles import UserCode
from rapidfireai_worker.user_code.source import installed_function

FORMAT = 1
"""The layout of an index on the volume."""
FIELDS = (
    "document_loader",
    "text_splitter",
    "embedding_cls",
    "embedding_kwargs",
    "vector_store",
    "retriever",
    "search_type",
    "search_kwargs",
    "reranker_cls",
    "reranker_kwargs",
    "enable_gpu_search",
    "document_template",
)


@dataclass(frozen=True, slots=True)
class Embedding:
    """An embedder by its class, made when it is needed and shared by all that name the same.

    Attributes:
        kind: The class.
        kwargs: Its arguments.
        key: Names both.
        field: The mapping that holds them, for messages.
    """

    kind: Any
    kwargs: Mapping[str, Any]
    key: str
    field: str

    def made(self) -> SharedEmbeddings:
        """Return the embedder.

        Raises:
            RunFailure: If it cannot be made.
        """
        return EMBEDDERS.get(self.key, self.kind, self.kwargs, self.field)

    @classmethod
    def of(cls, config: Mapping[str, Any], field: str, resolve: Callable[[Any], Any], job: RunJob) -> Embedding:
        """Return the embedder that `embedding_cls` and `embedding_kwargs` of a config name.

        Raises:
            RunFailure: If there is none, naming the field and the fix.
        """
        kind = resolve({"embedding_cls": config.get("embedding_cls")})["embedding_cls"]
        check_embedding_class(kind, f"{field}.embedding_cls")
        kwargs = config.get("embedding_kwargs") or {}
        key = digest_of([package_of(kind), identity(config["embedding_cls"], job), identity(kwargs, job)])
        return cls(kind, resolve(kwargs), key, field)


@dataclass(frozen=True, slots=True)
class RagSpec:
    """A rag with every part resolved.

    Attributes:
        digest: The index that it needs; None if it searches a retriever or a store that is there already.
        made_of: What the digest is the sha256 of, as JSON: it says what the index is made of.
        collection: The documents, as they were loaded for the experiment.
        splitter: Splits documents into chunks; None for the documents themselves.
        embedding: The embedder; None if nothing has to be embedded.
        store: Where the vectors are.
        retriever: What finds documents, as it was given.
        search: How the store is searched.
        reranker: The reranker's class, arguments, and what names its model; None without one.
        template: Writes one document as text; None for the built-in way.
        gpu: Search exactly, and on a GPU where there is one.
        field: The mapping that holds all this, for messages.
    """

    digest: str | None
    made_of: Mapping[str, Any]
    collection: Collection | None
    splitter: Any
    embedding: Embedding | None
    store: Store
    retriever: Any
    search: Search
    reranker: tuple[Any, Mapping[str, Any], str] | None
    template: Callable[[Any], str] | None
    gpu: bool
    field: str

    @classmethod
    def of(
        cls,
        job: RunJob,
        rag: Mapping[str, Any],
        code: UserCode,
        *,
        volume: Volume,
        claims: Mapping[str, Path],
        library: DataLibrary,
        field: str = "rag",
    ) -> RagSpec:
        """Resolve and check the rag of a run; documents are loaded unless the experiment has them.

        Args:
            job: The run.
            rag: `rag` of its leaf, with markers.
            code: The user's code.
            volume: The shared volume.
            claims: Where each claim is mounted.
            library: Reads `data.documents`.
            field: Where the mapping stands in the config, such as `vllm_config.rag`.

        Raises:
            RunFailure: If a part is wrong or documents cannot be loaded, naming the field, the value and the fix.
        """
        return _Reader(job, rag, code, volume, claims, library, field).spec()


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the fields of one rag."""

    job: RunJob
    raw: Mapping[str, Any]
    code: UserCode
    volume: Volume
    claims: Mapping[str, Path]
    library: DataLibrary
    field: str

    def spec(self) -> RagSpec:
        unknown = [name for name in self.raw if name not in FIELDS]
        if unknown:
            raise RunFailure("InvalidConfig", f"{self.field}.{unknown[0]}: is unknown; there are {', '.join(FIELDS)}")
        store, retriever = self._store(), self._retriever()
        search = search_of(
            self.raw.get("search_type"),
            self._resolved("search_kwargs"),
            self.field,
            faiss=store.is_faiss and retriever is None,
        )
        gpu = self.raw.get("enable_gpu_search") or False
        if not isinstance(gpu, bool):
            raise RunFailure("InvalidConfig", f"{self.field}.enable_gpu_search: must be true or false, not {gpu!r}")
        reranker = self._reranker(search.k if retriever is None else None)
        template = self._template()
        ready = retriever is not None or store.instance is not None or self._is_filled(store)
        embedding = None if retriever is not None or store.instance is not None else self._embedding()
        collection = splitter = digest = None
        made_of: dict[str, Any] = {}
        if not ready:
            splitter = self._resolved("text_splitter")
            collection = self._collection()
            made_of = self._made_of(store, collection, gpu, embedding)
            digest = digest_of(made_of)
        return RagSpec(
            digest=digest,
            made_of=made_of,
            collection=collection,
            splitter=splitter,
            embedding=embedding,
            store=store,
            retriever=retriever,
            search=search,
            reranker=reranker,
            template=template,
            gpu=gpu,
            field=self.field,
        )

    def _located(self, name: str) -> Any:
        return located(self.raw.get(name), f"{self.field}.{name}", self.volume, self.claims)

    def _resolve(self, value: Any) -> Any:
        return self.code.resolve(located(value, self.field, self.volume, self.claims), self.job)

    def _resolved(self, name: str) -> Any:
        try:
            return self.code.resolve({name: self._located(name)}, self.job)[name]
        except RunFailure as failure:
            where = f"{self.field}.{name}"
            if failure.message.startswith(where):
                raise
            raise RunFailure(failure.reason, f"{where}: {failure.message}"[:4096], failure.blame) from failure

    def _store(self) -> Store:
        field, raw = f"{self.field}.vector_store", self._located("vector_store")
        if isinstance(raw, Mapping) and CLASS in raw:  # made by us: the embedder and the collection are our arguments
            kwargs = self.code.resolve(raw.get(KWARGS) or {}, self.job)
            store = store_of((installed_function(raw[CLASS]), kwargs), field)
        else:
            store = store_of(self._resolved("vector_store"), field)
        if store.instance is not None and self.raw.get("document_loader") is not None:
            raise RunFailure(
                "InvalidConfig",
                f"{field}: is an instance, which is searched as it is, and there is a document_loader too; leave the "
                "loader out, or give the store's class so that the documents get a collection of their own",
            )
        return store

    def _retriever(self) -> Any:
        retriever = self._resolved("retriever")
        if retriever is not None and (isinstance(retriever, type) or not hasattr(retriever, "batch")):
            raise RunFailure(
                "InvalidConfig",
                f"{self.field}.retriever: must be an instance of a LangChain retriever, not {retriever!r}",
            )
        return retriever

    def _is_filled(self, store: Store) -> bool:
        """Return whether there is nothing to load: a collection is named that others have filled."""
        return store.lasts and self.raw.get("document_loader") is None and self.job.documents is None

    def _embedding(self) -> Embedding:
        values = {name: self._located(name) for name in ("embedding_cls", "embedding_kwargs")}
        return Embedding.of(values, self.field, self._resolve, self.job)

    def _reranker(self, k: int | None) -> tuple[Any, Mapping[str, Any], str] | None:
        if self.raw.get("reranker_cls") is None:
            if self.raw.get("reranker_kwargs"):
                raise RunFailure(
                    "InvalidConfig",
                    f"{self.field}.reranker_cls: is missing, and there are reranker_kwargs; name the class",
                )
            return None
        kind, kwargs = self._resolved("reranker_cls"), self._resolved("reranker_kwargs") or {}
        check_reranker_class(kind, f"{self.field}.reranker_cls")
        if k is not None:
            check_top_n(kwargs, k, self.field)
        raw = self._located("reranker_kwargs") or {}
        key = digest_of(identity([raw.get("model_name"), raw.get("model_kwargs")], self.job))
        return kind, kwargs, key

    def _template(self) -> Callable[[Any], str] | None:
        template = self._resolved("document_template")
        if template is not None and not callable(template):
            raise RunFailure(
                "InvalidConfig",
                f"{self.field}.document_template: must be a function that returns a document as text, not {template!r}",
            )
        return template  # type: ignore[no-any-return]

    def _collection(self) -> Collection:
        """Return the experiment's documents: loaded by the first worker that needs them, the same for all later on."""
        raw, field = self.raw.get("document_loader"), f"{self.field}.document_loader"
        if raw is None and self.job.documents is None:
            raise RunFailure(
                "InvalidConfig",
                f"{field}: is missing; name a loader, or put the documents' URI into data.documents",
            )
        root = self.volume.experiments / self.job.experiment_uid / "documents"
        if raw is None:
            ref = self.job.documents
            assert ref is not None  # noqa: S101 - looked at above
            rows = self.library.load(ref, "data.documents", self.job.experiment_uid)
            return collected(
                root / digest_of(["data.documents", str(ref)]),
                rows_as_documents(rows, "data.documents"),
                "data.documents",
            )
        key = digest_of(identity(raw, self.job, contents=False))
        return collected(root / key, self._load(field), field)

    def _load(self, field: str) -> Any:
        resolved = self._resolved("document_loader")
        loaders = resolved if isinstance(resolved, list | tuple) else [resolved]
        yield from loaded([each for each in loaders if each is not None], field)

    def _made_of(self, store: Store, collection: Collection, gpu: bool, embedding: Embedding | None) -> dict[str, Any]:
        splitter = self._located("text_splitter")
        return {
            "format": FORMAT,
            "documents": collection.digest,
            "splitter": None
            if splitter is None
            else [identity(splitter, self.job), version("langchain-text-splitters")],
            "embedding": embedding and [embedding.key, _shown(self.raw.get("embedding_cls"))],
            "store": identity(self._located("vector_store"), self.job),
            "index": ("exact" if gpu else "hnsw") if store.is_faiss else "own",
        }


def _shown(value: Any) -> Any:
    """Return what people call a class."""
    if isinstance(value, Mapping) and REF in value:
        return value[REF].get("label") or value[REF].get("key")
    return value.get(CLASS) if isinstance(value, Mapping) else value
