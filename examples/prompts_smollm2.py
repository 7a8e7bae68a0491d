"""Prompts: how many examples, and how hot, for trivia questions on SmolLM2 in vLLM.

One or three examples in the prompt, chosen by their likeness to the question, and two temperatures make four runs over
the same questions. They share one engine; after each quarter of the questions every run has an estimate with its
confidence interval. Run `rapidfireai start` first.
"""

# %%
from typing import Any

import smollm2
from datasets import Dataset
from langchain_core.example_selectors import SemanticSimilarityExampleSelector
from langchain_core.prompts import PromptTemplate
from langchain_huggingface import HuggingFaceEmbeddings

from rapidfireai import Experiment
from rapidfireai.automl import List, RFGridSearch, RFPromptManager, RFvLLMModelConfig

# %% [markdown]
# ## Questions, and examples to learn from
#
# Out of Python packages, like the model: no hub and no account is needed.

# %%
experiment = Experiment(experiment_name="prompts-smollm2", mode="evals")
demo = smollm2.prepare(experiment.workspace.mount_path)
examples, _ = smollm2.trivia()
asked = [pair for pair in smollm2.questions() if pair["question"] not in {row["question"] for row in examples}]
dataset = Dataset.from_list(asked)

prompts = RFPromptManager(
    instructions="Answer the question in as few words as possible.",
    examples=[{"user_query": row["question"], "answer": row["answer"]} for row in examples],
    embedding_cls=HuggingFaceEmbeddings,
    embedding_kwargs={"model_name": str(demo.embedder), "model_kwargs": {"device": "cpu"}},
    example_selector_cls=SemanticSimilarityExampleSelector,
    example_prompt_template=PromptTemplate.from_template("Question: {user_query}\nAnswer: {answer}"),
    k=List([1, 3]),
)


def preprocess(batch: dict[str, list[Any]], rag: Any, prompt_manager: Any) -> dict[str, list[Any]]:
    """Write the prompts: instructions, the examples that are most like the question, the question."""
    shots = prompt_manager.get_fewshot_examples(user_queries=batch["question"])
    conversations = [
        [
            {"role": "system", "content": prompt_manager.get_instructions()},
            {"role": "user", "content": f"{shot}\n\nQuestion: {question}\nAnswer:"},
        ]
        for question, shot in zip(batch["question"], shots, strict=True)
    ]
    return {**batch, "prompts": conversations}


def compute_metrics(batch: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Count the answers that have all words of the right one."""

    def words(text: str) -> set[str]:
        return set(text.lower().replace(".", " ").replace(",", " ").split())

    right = [
        words(answer) <= words(said) for answer, said in zip(batch["answer"], batch["generated_text"], strict=True)
    ]
    return {"Right": {"value": sum(right)}, "Total": {"value": len(right)}}


def accumulate_metrics(metrics: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Put the batches together: the share of right answers so far."""
    right, total = (sum(each["value"] for each in metrics[name]) for name in ("Right", "Total"))
    return {"Accuracy": {"value": right / total, "is_algebraic": True, "value_range": (0, 1)}}


config = {
    "vllm_config": RFvLLMModelConfig(
        model_config={"model": str(demo.model), "max_model_len": 1024},
        sampling_params={"temperature": List([0.0, 0.8]), "max_tokens": 16, "seed": 7},
        prompt_manager=prompts,
    ),
    "batch_size": 8,
    "preprocess_fn": preprocess,
    "compute_metrics_fn": compute_metrics,
    "accumulate_metrics_fn": accumulate_metrics,
    "online_strategy_kwargs": {"strategy_name": "wilson", "confidence_level": 0.95, "use_fpc": True},
}

# %% [markdown]
# ## Evaluate
#
# The same through an OpenAI-style API: `"openai_config": RFOpenAIAPIModelConfig(client_config={"base_url": ...},
# model_config={"model": ...}, rpm_limit=..., tpm_limit=..., prompt_manager=prompts)` in the place of `vllm_config`.

# %%
results = experiment.run_evals(
    config_group=RFGridSearch(config),
    dataset=dataset,
    num_shards=4,
    num_actors=1,
    seed=42,
    objective="maximize:Accuracy",
)

# %%
for run_id, (rows, metrics) in results.items():
    accuracy = metrics["Accuracy"]
    print(
        f"run {run_id}: {accuracy['value']:.1%} right "
        f"[{accuracy['lower_bound']:.1%}, {accuracy['upper_bound']:.1%}] of {len(rows['question'])}, "
        f"{metrics['Samples Per Second']} rows a second"
    )

# %%
experiment.end()
