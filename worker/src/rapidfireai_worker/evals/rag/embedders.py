"""Embedders: one instance for all runs that name the same class with the same arguments."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cachetools import LRUCache
from langchain_core.embeddings import Embeddings

from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.engine import RunFailure

_KEPT = 4
"""How many embedders stay in memory; each may be a model."""
_QUERIES = 8192
"""How many vectors of queries an embedder remembers: runs of one experiment ask the same ones."""


class SharedEmbeddings(Embeddings):
    """A user's embedder, for several threads and runs at once.

    Args:
        embedder: The embedder. It is called by one thread at a time: tokenizers are not made for more.
        field: The field that names its class, for messages.
    """

    def __init__(self, embedder: Embeddings, field: str) -> None:
        self._embedder = embedder
        self._field = field
        self._lock = threading.Lock()
        self._queries: LRUCache[str, list[float]] = LRUCache(_QUERIES)
        self._dimension: int | None = None

    @property
    def embedder(self) -> Embeddings:
        """The user's embedder."""
        return self._embedder

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        if self._dimension is None:
            self._dimension = len(self.embed_query("dimension"))
        return self._dimension

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of documents.

        Raises:
            RunFailure: If the embedder fails, or returns what are no vectors.
        """
        vectors: list[list[float]] = self._call(self._embedder.embed_documents, texts)
        if len(vectors) != len(texts):
            raise RunFailure(
                "EmbeddingFailed", f"{self._field}: embed_documents returned {len(vectors)} vectors for {len(texts)}"
            )
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query.

        Raises:
            RunFailure: If the embedder fails.
        """
        return self.embed_queries([text])[0]

    def embed_queries(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vectors of queries, those that were asked for before from memory.

        Raises:
            RunFailure: If the embedder fails.
        """
        with self._lock:
            known = {text: self._queries[text] for text in texts if text in self._queries}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            if _embeds_queries_as_documents(self._embedder):
                vectors = self._call(self._embedder.embed_documents, missing)
            else:
                vectors = [self._call(self._embedder.embed_query, text) for text in missing]
            found = dict(zip(missing, vectors, strict=True))
            with self._lock:
                self._queries.update(found)
            known |= found
        return [known[text] for text in texts]

    def _call(self, function: Callable[[Any], Any], argument: object) -> Any:
        try:
            with self._lock:
                return function(argument)
        except RunFailure:
            raise
        except Exception as error:
            if is_of_the_machine(error):
                raise
            name = type(self._embedder).__name__
            message = f"{self._field}: {name} could not embed: {type(error).__name__}: {error}"
            raise RunFailure("EmbeddingFailed", message[:4096]) from error


class Embedders:
    """The embedders of a process; the ones that were used last stay in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[str, SharedEmbeddings] = OrderedDict()

    def get(self, key: str, kind: Any, kwargs: Mapping[str, Any], field: str) -> SharedEmbeddings:
        """Return the embedder that `kind(**kwargs)` is, made once.

        Args:
            key: Names class and kwargs: equal keys are the same embedder.
            kind: The class.
            kwargs: Its arguments.
            field: The mapping that holds `embedding_cls` and `embedding_kwargs`, for messages.

        Raises:
            RunFailure: If it is no class of embedders or refuses its arguments, naming the field and the fix.
        """
        with self._lock:  # two runs that begin together need one model, not two
            if key not in self._made:
                check_embedding_class(kind, f"{field}.embedding_cls")
                made = constructed(kind, kwargs, f"{field}.embedding_kwargs")
                self._made[key] = SharedEmbeddings(made, f"{field}.embedding_cls")
            self._made.move_to_end(key)
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
            return self._made[key]

    def close(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._made.clear()


EMBEDDERS = Embedders()
"""This process's embedders, for indexes, searches and the examples of prompts alike."""


def check_embedding_class(kind: Any, field: str) -> None:
    """Check what a config gives for an embedder.

    Raises:
        RunFailure: If it is missing, an instance, or no embedder.
    """
    example = '{"$class": "langchain_huggingface:HuggingFaceEmbeddings"} in a manifest, the class itself in Python'
    if kind is None:
        raise RunFailure("InvalidConfig", f"{field}: is missing; name a class of LangChain embeddings: {example}")
    check_class(kind, field, "embedding_kwargs")
    if not (hasattr(kind, "embed_documents") and hasattr(kind, "embed_query")):
        raise RunFailure(
            "InvalidConfig",
            f"{field}: {kind.__name__} has no embed_documents and embed_query; name a class of LangChain embeddings: "
            f"{example}",
        )


def check_class(kind: Any, field: str, kwargs_field: str) -> None:
    """Check that a config gives a class.

    Raises:
        RunFailure: If it is an instance or something else.
    """
    if not isinstance(kind, type):
        raise RunFailure(
            "InvalidConfig",
            f"{field}: must be a class, not an instance of {type(kind).__name__}: give the class itself, and its "
            f"arguments as {kwargs_field}",
        )


def constructed(kind: type, kwargs: Mapping[str, Any], field: str) -> Any:
    """Return an instance of a class of a config.

    Raises:
        RunFailure: If it refuses the arguments.
    """
    try:
        return kind(**kwargs)
    except RunFailure:
        raise
    except Exception as error:
        if is_of_the_machine(error):
            raise
        given = ", ".join(kwargs) or "no arguments"
        raise RunFailure(
            "InvalidConfig",
            f"{field}: {kind.__name__} with {given} raised {type(error).__name__}: {error}; correct the arguments"[
                :4096
            ],
        ) from error


def _embeds_queries_as_documents(embedder: Embeddings) -> bool:
    """Return whether queries may be embedded many at a time, as documents are: the class does it so, one by one."""
    own = getattr(type(embedder).embed_query, "__qualname__", "")
    return own == "HuggingFaceEmbeddings.embed_query" and not getattr(embedder, "query_encode_kwargs", None)
