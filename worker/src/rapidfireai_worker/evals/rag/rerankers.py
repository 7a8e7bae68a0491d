"""Rerankers: what puts found documents in another order, and keeps the first of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document

from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.rag.embedders import check_class, constructed

CROSS_ENCODER = "cross-encoder/ms-marco-MiniLM-L6-v2"
"""The model of a `CrossEncoderReranker` that names none."""
_KEPT = 4


class Reranker:
    """A user's document compressor, for several threads at once.

    Args:
        compressor: The compressor.
        lock: Held while it works; rerankers with the same model share it.
        field: The field that names its class, for messages.
    """

    def __init__(self, compressor: Any, lock: threading.Lock, field: str) -> None:
        self.compressor = compressor
        self._lock = lock
        self._field = field

    def rerank(self, documents: Sequence[Document], query: str) -> list[Document]:
        """Return the documents in their new order.

        Raises:
            RunFailure: If the compressor raises.
        """
        if not documents:
            return []
        try:
            with self._lock:
                return list(self.compressor.compress_documents(documents, query))
        except RunFailure:
            raise
        except Exception as error:
            if is_of_the_machine(error):
                raise
            name = type(self.compressor).__name__
            raise RunFailure(
                "UserCodeError", f"{self._field}: {name} raised {type(error).__name__}: {error}"[:4096]
            ) from error


class Rerankers:
    """The cross-encoders of a process: one model for all rerankers that name it with the same arguments."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: OrderedDict[str, tuple[Any, threading.Lock]] = OrderedDict()

    def get(self, kind: Any, kwargs: Mapping[str, Any], key: str, field: str) -> Reranker:
        """Return a reranker.

        Args:
            kind: Its class.
            kwargs: The arguments.
            key: Names the model among the arguments: equal keys are the same model.
            field: The mapping that holds `reranker_cls` and `reranker_kwargs`, for messages.

        Raises:
            RunFailure: If it cannot be made, naming the field and the fix.
        """
        check_reranker_class(kind, f"{field}.reranker_cls")
        where = f"{field}.reranker_kwargs"
        if not takes_cross_encoder(kind) or "model" in kwargs:
            return Reranker(constructed(kind, kwargs, where), threading.Lock(), f"{field}.reranker_cls")
        model, lock = self._cross_encoder(kwargs, key, where)
        rest = {name: value for name, value in kwargs.items() if name not in {"model_name", "model_kwargs"}}
        return Reranker(constructed(kind, {"model": model, **rest}, where), lock, f"{field}.reranker_cls")

    def _cross_encoder(self, kwargs: Mapping[str, Any], key: str, field: str) -> tuple[Any, threading.Lock]:
        from langchain_community.cross_encoders import HuggingFaceCrossEncoder  # noqa: PLC0415 - seconds, if used

        arguments = {
            "model_name": kwargs.get("model_name", CROSS_ENCODER),
            "model_kwargs": dict(kwargs.get("model_kwargs") or {}),
        }
        with self._lock:
            if key not in self._models:
                self._models[key] = constructed(HuggingFaceCrossEncoder, arguments, field), threading.Lock()
            self._models.move_to_end(key)
            while len(self._models) > _KEPT:
                self._models.popitem(last=False)
            return self._models[key]


RERANKERS = Rerankers()
"""This process's cross-encoders."""


def takes_cross_encoder(kind: type) -> bool:
    """Return whether a class is LangChain's `CrossEncoderReranker`, whose model is made of `model_name`."""
    return any(base.__name__ == "CrossEncoderReranker" for base in kind.__mro__)


def check_reranker_class(kind: Any, field: str) -> None:
    """Check what a config gives for a reranker.

    Raises:
        RunFailure: If it is an instance, or no document compressor.
    """
    check_class(kind, field, "reranker_kwargs")
    if not hasattr(kind, "compress_documents"):
        raise RunFailure(
            "InvalidConfig", f"{field}: {kind.__name__} has no compress_documents; name a LangChain document compressor"
        )


def check_top_n(kwargs: Mapping[str, Any], k: int, field: str) -> None:
    """Check that a reranker does not keep more than the search finds.

    Raises:
        RunFailure: If it does, or top_n is no whole number.
    """
    top = kwargs.get("top_n")
    if top is None:
        return
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise RunFailure(
            "InvalidConfig", f"{field}.reranker_kwargs.top_n: must be a whole number from 1 on, not {top!r}"
        )
    if top > k:
        raise RunFailure(
            "InvalidConfig",
            f"{field}.reranker_kwargs.top_n: {top} is more than search_kwargs.k: {k}; search more, or keep fewer",
        )
