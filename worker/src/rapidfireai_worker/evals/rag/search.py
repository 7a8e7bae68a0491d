"""How a run searches: which documents of an index answer a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rapidfireai.arguments import did_you_mean
from rapidfireai_worker.engine import RunFailure

SEARCH_TYPES = ("similarity", "similarity_score_threshold", "mmr")
_KNOWN = ("k", "filter", "fetch_k", "lambda_mult", "score_threshold")
_FETCHED = 20


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for each query.

    Attributes:
        type: `similarity`, `similarity_score_threshold` or `mmr` (maximal marginal relevance).
        k: Documents a query.
        filter: Metadata that documents must have: a mapping, or a function of the metadata; None for all.
        fetch_k: Candidates of mmr, and of a filter in FAISS.
        lambda_mult: 1 for the most relevant of the candidates, 0 for the most different ones (mmr).
        score_threshold: The least relevance, from 0 to 1 (similarity_score_threshold).
        more: What a vector store other than FAISS takes besides.
    """

    type: str = "similarity"
    k: int = 5
    filter: Any = None
    fetch_k: int = _FETCHED
    lambda_mult: float = 0.5
    score_threshold: float = 0.5
    more: Mapping[str, Any] = field(default_factory=dict)

    def kwargs(self, *, faiss: bool) -> dict[str, Any]:
        """Return the arguments of LangChain's search of this type."""
        arguments = {"k": self.k, **self.more}
        if self.filter is not None:
            arguments["filter"] = self.filter
        if self.type == "mmr":
            arguments |= {"fetch_k": self.fetch_k, "lambda_mult": self.lambda_mult}
        elif faiss:
            arguments["fetch_k"] = self.fetch_k
        if self.type == "similarity_score_threshold":
            arguments["score_threshold"] = self.score_threshold
        return arguments


def search_of(kind: Any, kwargs: Any, field: str, *, faiss: bool) -> Search:
    """Return the search that `search_type` and `search_kwargs` ask for.

    Args:
        kind: The type; None for similarity.
        kwargs: Its arguments, resolved.
        field: The mapping that holds both, for messages.
        faiss: Whether the store is FAISS, whose arguments are known.

    Raises:
        RunFailure: If one of them is not what it should be, naming the field, the value and the fix.
    """
    kind = "similarity" if kind is None else kind
    if kind not in SEARCH_TYPES:
        raise RunFailure(
            "InvalidConfig", f"{field}.search_type: must be one of {', '.join(SEARCH_TYPES)}, not {kind!r}"
        )
    given = dict(_mapping(kwargs, f"{field}.search_kwargs"))
    unknown = [name for name in given if name not in _KNOWN]
    if unknown and faiss:
        near = did_you_mean(unknown[0], _KNOWN) or f"; there are {', '.join(_KNOWN)}"
        raise RunFailure("InvalidConfig", f"{field}.search_kwargs.{unknown[0]}: is unknown{near}")
    k = _whole(given.get("k", 5), f"{field}.search_kwargs.k")
    fetched = _whole(given.get("fetch_k", max(_FETCHED, k)), f"{field}.search_kwargs.fetch_k")
    if fetched < k:
        raise RunFailure(
            "InvalidConfig", f"{field}.search_kwargs.fetch_k: {fetched} is less than k: {k}; k of fetch_k are chosen"
        )
    wanted = given.get("filter")
    if not (wanted is None or isinstance(wanted, Mapping) or callable(wanted)):
        raise RunFailure(
            "InvalidConfig",
            f"{field}.search_kwargs.filter: must be a mapping of metadata or a function, not {wanted!r}",
        )
    return Search(
        type=kind,
        k=k,
        filter=wanted,
        fetch_k=fetched,
        lambda_mult=_share(given.get("lambda_mult", 0.5), f"{field}.search_kwargs.lambda_mult"),
        score_threshold=_share(given.get("score_threshold", 0.5), f"{field}.search_kwargs.score_threshold"),
        more={name: given[name] for name in unknown},
    )


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RunFailure("InvalidConfig", f"{field}: must be a mapping of arguments, not {value!r}")
    return value


def _whole(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RunFailure("InvalidConfig", f"{field}: must be a whole number from 1 on, not {value!r}")
    return value


def _share(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RunFailure("InvalidConfig", f"{field}: must be a number from 0 to 1, not {value!r}")
    return float(value)
