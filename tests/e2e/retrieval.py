"""Retrieval over the Cranfield collection as a user writes it: batch functions, a reranker, and the questions."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import BaseDocumentCompressor, Document

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "cranfield"
CUTOFF = 5


class Abstracts(BaseLoader):
    """The collection's abstracts, each with its number."""

    def __init__(self, path: str) -> None:
        self.path = path

    def lazy_load(self) -> Any:
        for line in Path(self.path).read_text().splitlines():
            row = json.loads(line)
            if row["text"].strip():
                yield Document(row["text"], metadata={"doc_id": row["doc_id"]})


class WordReranker(BaseDocumentCompressor):
    """Ranks documents by the share of the query's words that they have."""

    top_n: int = 5

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        wanted = set(query.lower().split())

        def shared(document: Document) -> float:
            return len(wanted & set(document.page_content.lower().split())) / len(wanted)

        return sorted(documents, key=shared, reverse=True)[: self.top_n]


class FirstReranker(BaseDocumentCompressor):
    """Keeps the first documents in the order of the search."""

    top_n: int = 5

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        return list(documents)[: self.top_n]


def questions() -> list[dict[str, Any]]:
    """Return the queries, each with the documents that people judged relevant, as JSON: id -> grade."""
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (DATA / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, relevance = line.split("\t")
        judged[query][document] = int(relevance)
    rows = [json.loads(line) for line in (DATA / "queries.jsonl").read_text().splitlines()]
    return [
        {"query_id": row["query_id"], "query": row["text"], "judged": json.dumps(judged[row["query_id"]])}
        for row in rows
    ]


def preprocess(batch: dict[str, list[Any]], rag: Any, prompt_manager: Any) -> dict[str, list[Any]]:
    found = rag.get_context(batch_queries=batch["query"], serialize=False)
    unique = [list(dict.fromkeys(each.metadata["doc_id"] for each in documents)) for documents in found]
    prompts = [[{"role": "user", "content": query[:200]}] for query in batch["query"]]
    return {**batch, "prompts": prompts, "found": unique}


def compute_metrics(batch: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Sum up NDCG@5, MRR and recall over the batch."""
    ndcg = mrr = recall = 0.0
    for found, judged in zip(batch["found"], batch["judged"], strict=True):
        grades = {name: grade for name, grade in json.loads(judged).items() if grade > 0}
        gains = [grades.get(name, 0) for name in found[:CUTOFF]]
        best = sorted(grades.values(), reverse=True)[:CUTOFF]
        ideal = sum(gain / math.log2(place + 2) for place, gain in enumerate(best))
        ndcg += sum(gain / math.log2(place + 2) for place, gain in enumerate(gains)) / ideal if ideal else 0.0
        mrr += next((1 / (place + 1) for place, gain in enumerate(gains) if gain), 0.0)
        recall += sum(gain > 0 for gain in gains) / len(grades) if grades else 0.0
    return {
        "Total": {"value": len(batch["found"])},
        "NDCG@5": {"value": ndcg},
        "MRR": {"value": mrr},
        "Recall": {"value": recall},
    }


def accumulate_metrics(metrics: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    total = sum(each["value"] for each in metrics["Total"])
    return {
        name: {
            "value": sum(each["value"] for each in metrics[name]) / total,
            "is_algebraic": True,
            "value_range": (0, 1),
        }
        for name in ("NDCG@5", "MRR", "Recall")
    }
