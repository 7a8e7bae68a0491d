"""Builders for tests of retrieval: a workspace in a folder, documents, and parts that a config may name."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever

from rapidfireai_worker.engine import ChunkControl, DataRef, RunJob
from rapidfireai_worker.evals import rag
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rows.library import DataLibrary
from rapidfireai_worker.user_code.bundles import UserCode

FAKE = {
    "embedding_cls": {"$class": "langchain_core.embeddings:DeterministicFakeEmbedding"},
    "embedding_kwargs": {"size": 16},
}


def named(kind: str, **kwargs: Any) -> dict[str, Any]:
    """Return what a manifest writes for an instance of a class of this module."""
    return {"$class": f"tests.evals.rags:{kind}", "kwargs": kwargs}


class Lines(BaseLoader):
    """A document a line of a file; remembers how often it was asked."""

    calls = 0

    def __init__(self, path: str, **metadata: Any) -> None:
        self.path = path
        self.metadata = metadata

    def lazy_load(self) -> Iterator[Document]:
        type(self).calls += 1
        for number, line in enumerate(Path(self.path).read_text().splitlines()):
            yield Document(line, metadata={"line": number, "odd": number % 2 == 1, **self.metadata})


class Broken(BaseLoader):
    def lazy_load(self) -> Iterator[Document]:
        yield Document("one")
        raise OSError("the share is not mounted")


EMBEDDED: list[int] = []
"""How many documents `Counted` was given, each time."""
CHANGE: list[float] = []
"""What `Changed` adds to the vector of a query."""


class Counted(DeterministicFakeEmbedding):
    """Counts what it embeds."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        EMBEDDED.append(len(texts))
        return super().embed_documents(texts)


class Changed(DeterministicFakeEmbedding):
    """An embedder whose model behind the same name may change."""

    path: str | None = None
    token: str | None = None

    def embed_query(self, text: str) -> list[float]:
        return [*super().embed_query(text), *CHANGE]


class Refusing(DeterministicFakeEmbedding):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise ConnectionError("401: the key is wrong")


class Halves:
    """Splits a document into parts of equal length."""

    def __init__(self, parts: int = 2) -> None:
        self.parts = parts

    def split_text(self, text: str) -> list[str]:
        size = -(-len(text) // self.parts)
        return [text[start : start + size] for start in range(0, len(text), size)]


class Backwards(BaseDocumentCompressor):
    """The last documents first."""

    top_n: int = 3

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        return list(documents)[::-1][: self.top_n]


class Failing(BaseDocumentCompressor):
    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        raise KeyError("score")


class Fixed(BaseRetriever):
    """Finds the query itself."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(f"found {query}")]


def shout(document: Document) -> str:
    return document.page_content.upper()


def is_odd(metadata: Mapping[str, Any]) -> bool:
    return bool(metadata["odd"])


@dataclasses.dataclass
class Workspace:
    """A volume and a claim in a folder; experiments by their UIDs.

    Attributes:
        root: Holds the volume, and the claim `data`.
    """

    root: Path
    experiment: str = "one"
    documents: str | None = None

    def __post_init__(self) -> None:
        (self.root / "data").mkdir(exist_ok=True)
        self.volume.indexes.mkdir(parents=True, exist_ok=True)
        self.code = UserCode(self.volume)

    @property
    def volume(self) -> Volume:
        return Volume(self.root / "volume")

    @property
    def claims(self) -> dict[str, Path]:
        return {"data": self.root / "data"}

    def write(self, name: str, lines: Sequence[str]) -> str:
        """Write a file of the claim and return its URI."""
        (self.root / "data" / name).write_text("".join(f"{line}\n" for line in lines))
        return f"pvc://data/{name}"

    def job(self, **more: Any) -> RunJob:
        documents = None if self.documents is None else DataRef(self.documents)
        return RunJob(
            **{
                "namespace": "lab",
                "experiment": self.experiment,
                "experiment_uid": self.experiment,
                "run": "r1",
                "run_uid": "r1",
                "attempt": 1,
                "config": {},
                "seed": 1,
                "mode": "evals",
                "documents": documents,
                **more,
            }
        )

    def spec(self, **config: Any) -> rag.RagSpec:
        """Return the spec of a rag, with the fake embedder unless it names another."""
        return rag.RagSpec.of(
            self.job(),
            {**({} if "embedding_cls" in config else FAKE), **config},
            self.code,
            volume=self.volume,
            claims=self.claims,
            library=DataLibrary(self.volume, self.claims),
            field="vllm_config.rag",
        )

    def opened(self, **config: Any) -> rag.Retrieval:
        """Return a rag, its index built if it is not there."""
        spec = self.spec(**config)
        if not rag.is_built(spec, self.volume):
            rag.build(spec, self.volume, ChunkControl())
        return rag.open(spec, self.volume)

    def indexes(self) -> list[str]:
        return sorted(path.name for path in self.volume.indexes.iterdir())


def words(count: int) -> list[str]:
    """Return lines that differ from each other."""
    names = ("wing", "shock", "layer", "heat", "flow", "plate", "cone", "jet")
    return [
        " ".join(pair) + f" {n}"
        for n, pair in zip(range(count), itertools.cycle(itertools.permutations(names, 3)), strict=False)
    ]


def contents(found: list[list[Document]]) -> list[list[str]]:
    return [[each.page_content for each in documents] for documents in found]
