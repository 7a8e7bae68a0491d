"""Prompt managers: instructions, and examples chosen by their likeness to the query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.example_selectors import MaxMarginalRelevanceExampleSelector
from tests.evals.rags import EMBEDDED, FAKE, Workspace

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.parts import PromptManager
from rapidfireai_worker.evals.prompts import Prompts, prompts_of

pytestmark = pytest.mark.xdist_group("rag")
COUNTED = {"embedding_cls": {"$class": "tests.evals.rags:Counted"}, "embedding_kwargs": {"size": 16}}
EXAMPLES = [{"user_query": f"What is {n} and {n}?", "answer": str(2 * n)} for n in range(30)]
SIMILAR = {"$class": "langchain_core.example_selectors:SemanticSimilarityExampleSelector"}
DIVERSE = {"$class": "langchain_core.example_selectors:MaxMarginalRelevanceExampleSelector"}
TEMPLATE = {
    "$class": "langchain_core.prompts:PromptTemplate",
    "kwargs": {"template": "Q: {user_query}\nA: {answer}", "input_variables": ["user_query", "answer"]},
}
CONFIG: dict[str, Any] = {
    "instructions": "Answer with a number.",
    "examples": EXAMPLES,
    "example_selector_cls": SIMILAR,
    "example_prompt_template": TEMPLATE,
    "k": 3,
    **FAKE,
}
QUERIES = ["What is 7 and 7?", "Something else", "What is 21 and 21?"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def manager(workspace: Workspace, **config: Any) -> Prompts:
    return prompts_of(
        workspace.job(), config, workspace.code, workspace.volume, workspace.claims, "vllm_config.prompt_manager"
    )


def test_instructions_alone_are_enough(workspace: Workspace) -> None:
    prompts: PromptManager = manager(workspace, instructions="Be brief.")
    assert prompts.get_instructions() == "Be brief."
    assert prompts.get_fewshot_examples(QUERIES) == ["", "", ""]


def test_instructions_may_be_a_file_of_a_claim(workspace: Workspace) -> None:
    uri = workspace.write("instructions.txt", ["Be kind."])
    assert manager(workspace, instructions_file_path=uri).get_instructions() == "Be kind.\n"


def test_the_examples_most_like_the_query_are_written(workspace: Workspace) -> None:
    """As a plain computation chooses them, the nearest first."""
    from langchain_core.embeddings import DeterministicFakeEmbedding

    embedder = DeterministicFakeEmbedding(size=16)
    known = np.array(embedder.embed_documents([each["user_query"] for each in EXAMPLES]))
    shots = manager(workspace, **CONFIG).get_fewshot_examples(QUERIES)
    for query, text in zip(QUERIES, shots, strict=True):
        nearest = np.argsort(((known - np.array(embedder.embed_query(query))) ** 2).sum(axis=1))[:3]
        chosen = [EXAMPLES[place] for place in nearest]
        assert text == "\n\n".join(f"Q: {each['user_query']}\nA: {each['answer']}" for each in chosen)
    assert shots[0].startswith("Q: What is 7 and 7?\nA: 14\n\n")


def test_the_other_selector_is_langchains_own(workspace: Workspace) -> None:
    from langchain_community.vectorstores import FAISS
    from langchain_core.embeddings import DeterministicFakeEmbedding

    plain = MaxMarginalRelevanceExampleSelector.from_examples(
        EXAMPLES, DeterministicFakeEmbedding(size=16), FAISS, k=3, input_keys=["user_query"]
    )
    shots = manager(workspace, **{**CONFIG, "example_selector_cls": DIVERSE}).get_fewshot_examples(QUERIES)
    expected = [plain.select_examples({"user_query": query}) for query in QUERIES]
    assert shots == ["\n\n".join(f"Q: {e['user_query']}\nA: {e['answer']}" for e in each) for each in expected]


def test_equal_managers_choose_equal_examples(workspace: Workspace) -> None:
    first, second = (manager(workspace, **CONFIG).get_fewshot_examples(QUERIES) for _ in range(2))
    assert first == second


def test_runs_with_the_same_examples_embed_them_once(workspace: Workspace) -> None:
    EMBEDDED.clear()
    for k in (1, 2, 3):
        shots = manager(workspace, **{**CONFIG, **COUNTED, "k": k}).get_fewshot_examples(QUERIES)
        assert [text.count("Q: ") for text in shots] == [k] * 3
    assert EMBEDDED == [30]


def test_no_example_is_a_choice_too(workspace: Workspace) -> None:
    assert manager(workspace, **{**CONFIG, "k": 0}).get_fewshot_examples(QUERIES) == ["", "", ""]


def test_a_template_may_be_text(workspace: Workspace) -> None:
    config = {**CONFIG, "example_prompt_template": "{user_query} {answer}", "k": 1}
    assert manager(workspace, **config).get_fewshot_examples(QUERIES[:1]) == ["What is 7 and 7? 14"]


def test_the_parts_can_be_read(workspace: Workspace) -> None:
    prompts = manager(workspace, **CONFIG)
    assert (prompts.instructions, prompts.k, prompts.examples) == ("Answer with a number.", 3, EXAMPLES)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"embedding_cls": None}, r"prompt_manager\.embedding_cls: is missing"),
        (
            {"embedding_cls": {"$class": FAKE["embedding_cls"]["$class"], "kwargs": {"size": 2}}},
            "must be a class, not an",
        ),
        ({"embedding_kwargs": {"size": "many"}}, r"embedding_kwargs: DeterministicFakeEmbedding with size raised"),
        (
            {"example_selector_cls": None},
            r"example_selector_cls: is missing; name SemanticSimilarityExampleSelector or",
        ),
        (
            {"example_selector_cls": {"$class": "tests.evals.rags:Lines"}},
            r"example_selector_cls: must be .*, not Lines",
        ),
        ({"example_prompt_template": None}, r"example_prompt_template: is missing; write how an example reads"),
        ({"example_prompt_template": "{question}"}, r"example_prompt_template: names \{question\}, and examples have"),
        ({"example_prompt_template": 3}, r"example_prompt_template: must be a text or a PromptTemplate"),
        ({"examples": "some"}, r"prompt_manager\.examples: must be a list of mappings"),
        (
            {"examples": [{"a": 1}, {"b": 2}]},
            r"examples: all must have the same fields; some have \['a'\], others \['b'\]",
        ),
        ({"k": -1}, r"prompt_manager\.k: must be a whole number, 0 for no examples, not -1"),
        ({"instructions": 3}, r"prompt_manager\.instructions: must be a text, not 3"),
        ({"instructions": "", "examples": []}, r"prompt_manager\.instructions: is missing, and there are no examples"),
        (
            {"instructions": "", "instructions_file_path": "/nowhere"},
            r"instructions_file_path: /nowhere cannot be read",
        ),
        ({"selector": 1}, r"prompt_manager\.selector: is unknown; there are instructions"),
    ],
)
def test_what_is_wrong_is_named_with_the_fix(workspace: Workspace, config: dict[str, Any], message: str) -> None:
    with pytest.raises(RunFailure, match=message):
        manager(workspace, **{**CONFIG, **config})


def test_queries_are_a_list_of_texts(workspace: Workspace) -> None:
    with pytest.raises(TypeError, match="user_queries must be a list of texts"):
        manager(workspace, instructions="Be brief.").get_fewshot_examples("What?")  # type: ignore[arg-type]
