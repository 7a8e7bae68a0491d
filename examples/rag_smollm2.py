"""RAG: which pipeline finds the answer to a trivia question, and how sure is that after a part of the questions?

Two splitters, two searches and two numbers of documents make eight pipelines over the same questions. The answers are
embedded once for each splitter, whatever searches them. After each quarter of the questions every pipeline has an
estimate with its confidence interval. Run `rapidfireai start` first.
"""

# %%
import math
from typing import Any

import smollm2
from datasets import Dataset
from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_text_splitters import CharacterTextSplitter, RecursiveCharacterTextSplitter

from rapidfireai import Experiment
from rapidfireai.automl import List, RFGridSearch, RFLangChainRagSpec, RFvLLMModelConfig

# %% [markdown]
# ## Model, documents, questions
#
# SmolLM2-135M, an embedder (MiniLM) and 250 trivia questions with their answers come out of Python packages. Each
# answer is a document: a pipeline is good if it finds the one that belongs to the question.

# %%
experiment = Experiment(experiment_name="rag-smollm2", mode="evals")
demo = smollm2.prepare(experiment.workspace.mount_path)
pairs = smollm2.questions()
dataset = Dataset.from_list([{"query": pair["question"], "doc_id": str(n)} for n, pair in enumerate(pairs)])


class Answers(BaseLoader):
    """The documents: any loader of LangChain does as well."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers

    def lazy_load(self) -> Any:
        """Yield the answers, one after another."""
        for number, answer in enumerate(self.answers):
            yield Document(answer, metadata={"doc_id": str(number)})


# %% [markdown]
# ## The pipelines
#
# `List` is a knob wherever it stands. Two distinct splitters are two indexes; what differs in search alone shares one.

# %%
rag = RFLangChainRagSpec(
    document_loader=Answers([pair["answer"] for pair in pairs]),
    text_splitter=List(
        [
            RecursiveCharacterTextSplitter(chunk_size=64, chunk_overlap=8),
            CharacterTextSplitter(separator=". ", chunk_size=256, chunk_overlap=0),
        ]
    ),
    embedding_cls=HuggingFaceEmbeddings,
    embedding_kwargs={"model_name": str(demo.embedder), "model_kwargs": {"device": "cpu"}},
    search_type=List(["similarity", "mmr"]),
    search_kwargs={"k": List([1, 5])},
)


def preprocess(batch: dict[str, list[Any]], rag: Any, prompt_manager: Any) -> dict[str, list[Any]]:
    """Find documents for each question, and ask the model to answer with them."""
    found = rag.get_context(batch_queries=batch["query"], serialize=False)
    texts = rag.serialize_documents(found)
    prompts = [
        [{"role": "user", "content": f"{text}\n\nAnswer in a few words: {query}"}]
        for query, text in zip(batch["query"], texts, strict=True)
    ]
    return {**batch, "prompts": prompts, "found": [[each.metadata["doc_id"] for each in docs] for docs in found]}


def compute_metrics(batch: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Score a batch: is the right document among those that were found, and how far in front?"""
    ranks = [
        found.index(wanted) + 1 if wanted in found else math.inf
        for found, wanted in zip(batch["found"], batch["doc_id"], strict=True)
    ]
    return {
        "Total": {"value": len(ranks)},
        "Recall": {"value": sum(rank < math.inf for rank in ranks)},
        "MRR": {"value": sum(1 / rank for rank in ranks)},
    }


def accumulate_metrics(metrics: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Put the batches together: means over all questions so far."""
    total = sum(each["value"] for each in metrics["Total"])
    means = {name: sum(each["value"] for each in metrics[name]) / total for name in ("Recall", "MRR")}
    return {name: {"value": mean, "is_algebraic": True, "value_range": (0, 1)} for name, mean in means.items()}


config = {
    "vllm_config": RFvLLMModelConfig(
        model_config={"model": str(demo.model), "max_model_len": 1024},
        sampling_params={"temperature": 0.0, "max_tokens": 12},
        rag=rag,
    ),
    "batch_size": 16,
    "preprocess_fn": preprocess,
    "compute_metrics_fn": compute_metrics,
    "accumulate_metrics_fn": accumulate_metrics,
    "online_strategy_kwargs": {"strategy_name": "wilson", "confidence_level": 0.95, "use_fpc": True},
}

# %% [markdown]
# ## Evaluate
#
# Four shards: the pipelines are compared four times. Each shard is a random sample of the questions.

# %%
results = experiment.run_evals(
    config_group=RFGridSearch(config), dataset=dataset, num_shards=4, num_actors=2, seed=42, objective="maximize:MRR"
)

# %% [markdown]
# ## Compare
#
# One line a pipeline: estimates over all questions, and where the truth lies with 95 % confidence.

# %%
for run_id, (_, metrics) in results.items():
    said = ", ".join(
        f"{name} {metrics[name]['value']:.3f} [{metrics[name]['lower_bound']:.3f}, {metrics[name]['upper_bound']:.3f}]"
        for name in ("Recall", "MRR")
    )
    print(f"run {run_id}: {said}")
best = max(results, key=lambda run_id: results[run_id][1]["MRR"]["value"])
rows = results[best][0]
for query, text in list(zip(rows["query"], rows["generated_text"], strict=True))[:5]:
    print(f"{query}\n  {text}")

# %%
experiment.end()
