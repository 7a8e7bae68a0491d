"""School word problems with few-shot prompts, as a user writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
FEW = 16
SHOTS = 60


def rows(count: int) -> list[dict[str, str]]:
    """Return the first questions of the test part, with their worked answers."""
    lines = (DATA / "test.jsonl").read_text().splitlines()[:count]
    return [json.loads(line) for line in lines]


def prompts(embedder: Path) -> Any:
    """Return one or three examples out of the training part, chosen by their likeness to the question."""
    from langchain_core.example_selectors import SemanticSimilarityExampleSelector
    from langchain_core.prompts import PromptTemplate
    from langchain_huggingface import HuggingFaceEmbeddings

    from rapidfireai.automl import List, RFPromptManager

    lines = (DATA / "train.jsonl").read_text().splitlines()[:SHOTS]
    examples = [json.loads(line) for line in lines]
    return RFPromptManager(
        instructions="Solve the problem step by step. End with #### and the number.",
        examples=[{"user_query": each["question"], "answer": each["answer"]} for each in examples],
        embedding_cls=HuggingFaceEmbeddings,
        embedding_kwargs={"model_name": str(embedder), "model_kwargs": {"device": "cpu"}},
        example_selector_cls=SemanticSimilarityExampleSelector,
        example_prompt_template=PromptTemplate.from_template("Question: {user_query}\nAnswer: {answer}"),
        k=List([1, 3]),
    )


def number(text: str) -> str | None:
    """Return the number after ####, else the last one; None without any."""
    marked = re.search(r"####\s*(-?[0-9.,]+)", text)
    found = [marked.group(1)] if marked else re.findall(r"-?[0-9][0-9.,]*", text)
    return found[-1].replace(",", "").rstrip(".") if found else None


def preprocess(batch: dict[str, list[Any]], rag: Any, prompt_manager: Any) -> dict[str, list[Any]]:
    shots = prompt_manager.get_fewshot_examples(user_queries=batch["question"])
    system = {"role": "system", "content": prompt_manager.get_instructions()}
    asked = [
        f"{shot}\n\nQuestion: {question}\nAnswer:" for question, shot in zip(batch["question"], shots, strict=True)
    ]
    return {**batch, "prompts": [[system, {"role": "user", "content": each}] for each in asked]}


def compute_metrics(batch: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    both = zip(batch["generated_text"], batch["answer"], strict=True)
    right = sum(number(said) == number(answer) for said, answer in both)
    return {"Right": {"value": right}, "Total": {"value": len(batch["answer"])}}


def accumulate_metrics(metrics: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    right, total = (sum(each["value"] for each in metrics[name]) for name in ("Right", "Total"))
    return {"Accuracy": {"value": right / total, "is_algebraic": True, "value_range": (0, 1)}}


FUNCTIONS = {
    "preprocess_fn": preprocess,
    "compute_metrics_fn": compute_metrics,
    "accumulate_metrics_fn": accumulate_metrics,
    "online_strategy_kwargs": {"strategy_name": "wilson", "confidence_level": 0.95, "use_fpc": True},
}
