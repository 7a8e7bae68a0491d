"""Vector stores other than our index: a class of LangChain's, such as pgvector's, or one that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.vectorstores import VectorStore

from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.rag.embedders import SharedEmbeddings
from rapidfireai_worker.evals.rag.identity import parameters

_EMBEDDING = ("embeddings", "embedding", "embedding_function", "embedding_service")
"""How constructors of vector stores name the embedder."""
_COLLECTION = ("collection_name", "index_name", "table_name")
"""How they name what holds one set of documents."""
_TYPES = ("faiss", "pgvector")
BATCH = 128
"""Documents that are embedded and added at a time, unless `batch_size` of the store's config says otherwise."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where vectors are searched.

    Attributes:
        kind: The class; None for our own FAISS index.
        kwargs: Its arguments.
        instance: A store that is there already; it is searched as it is.
        batch: Documents that are added at a time.
    """

    kind: type[VectorStore] | None = None
    kwargs: Mapping[str, Any] | None = None
    instance: VectorStore | None = None
    batch: int = BATCH

    @property
    def is_faiss(self) -> bool:
        """Whether this is our own index on the volume."""
        return self.kind is None and self.instance is None

    @property
    def lasts(self) -> bool:
        """Whether documents that were added are there in another process: there is a name to find them by."""
        return self.kind is not None and _named(self.kind, _COLLECTION) is not None

    def opened(self, digest: str | None, embeddings: SharedEmbeddings | None, field: str) -> VectorStore:
        """Return the store of an index.

        Args:
            digest: The index, whose documents are in a collection of its own; None for what the arguments name.
            embeddings: The embedder.
            field: The field, for messages.

        Raises:
            RunFailure: If it cannot be made or reached.
        """
        if self.instance is not None:
            return self.instance
        assert self.kind is not None, "FAISS is opened by its own module"  # noqa: S101
        arguments = dict(self.kwargs or {})
        name = _named(self.kind, _EMBEDDING)
        if name is not None and embeddings is not None:
            arguments.setdefault(name, embeddings)
        collection = _named(self.kind, _COLLECTION)
        if digest is not None and collection is not None:
            arguments[collection] = collection_name(digest, arguments.get(collection))
        kind = self.kind
        made: VectorStore = reached(lambda: kind(**arguments), kind.__name__, field)
        return made


def collection_name(digest: str, prefix: str | None = None) -> str:
    """Return the name of the collection that holds an index's documents; identifiers of databases take 63 letters."""
    return f"rapidfire-{digest[:40]}" if prefix is None else f"{prefix[:40]}-{digest[:20]}"


def store_of(value: Any, field: str) -> Store:
    """Return the store that a config names.

    Args:
        value: None, a class, an instance, a mapping with a `type`, or (class, kwargs) of a manifest's `$class`.
        field: The field, for messages.

    Raises:
        RunFailure: If it is none of these.
    """
    if value is None:
        return Store()
    if isinstance(value, tuple):
        return _of_class(value[0], dict(value[1]), field)
    if isinstance(value, type):
        return _of_class(value, {}, field)
    if isinstance(value, Mapping):
        return _of_type(dict(value), field)
    if isinstance(value, VectorStore):
        return Store(instance=value)
    raise RunFailure(
        "InvalidConfig",
        f"{field}: must be a vector store of LangChain (a class, an instance, or a mapping with type: "
        f"{' or '.join(_TYPES)}), not {type(value).__name__}",
    )


def reached(do: Any, name: str, field: str) -> Any:
    """Return what `do` returns, its failure being that of a store: a server that is not there, arguments it refuses.

    Raises:
        RunFailure: If it raises.
    """
    try:
        return do()
    except RunFailure:
        raise
    except (TypeError, ValueError, ImportError) as error:
        raise RunFailure(
            "InvalidConfig", f"{field}: {name} raised {type(error).__name__}: {error}; correct its arguments"[:4096]
        ) from error
    except Exception as error:
        if is_of_the_machine(error):
            raise
        raise RunFailure(
            "VectorStoreFailed",
            f"{field}: {name} raised {type(error).__name__}: {error}; the worker has to reach it"[:4096],
        ) from error


def _of_class(kind: Any, kwargs: dict[str, Any], field: str) -> Store:
    if not (isinstance(kind, type) and issubclass(kind, VectorStore)):
        raise RunFailure("InvalidConfig", f"{field}: {kind!r} is no vector store of LangChain")
    batch = kwargs.pop("batch_size", BATCH) if "batch_size" not in parameters(kind) else BATCH
    if kind.__name__ == "FAISS":
        return Store(batch=batch)
    return Store(kind, kwargs, batch=batch)


def _of_type(config: dict[str, Any], field: str) -> Store:
    kind = config.pop("type", None)
    batch = config.pop("batch_size", BATCH)
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise RunFailure("InvalidConfig", f"{field}.batch_size: must be a whole number from 1 on, not {batch!r}")
    if kind == "faiss":
        if config:
            raise RunFailure("InvalidConfig", f"{field}.{next(iter(config))}: is unknown; faiss takes batch_size")
        return Store(batch=batch)
    if kind != "pgvector":
        raise RunFailure(
            "InvalidConfig",
            f"{field}.type: must be {' or '.join(_TYPES)}, not {kind!r}; name another store by its class",
        )
    if not config.get("connection"):
        raise RunFailure(
            "InvalidConfig",
            f"{field}.connection: is missing; pgvector needs postgresql+psycopg://USER@HOST/DATABASE, with a password "
            'as {"$env": "NAME"} of a whole connection from a Secret',
        )
    try:
        from langchain_postgres import PGVector  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RunFailure(
            "InvalidConfig",
            f"{field}: this worker has no langchain-postgres; name an image that has rapidfireai-worker[pgvector] in "
            "spec.workers.template",
        ) from error
    return Store(PGVector, config, batch=batch)


def _named(kind: type, names: tuple[str, ...]) -> str | None:
    known = parameters(kind)
    return next((name for name in names if name in known), None)
