"""The config classes of evaluations: what notebooks write, what becomes of it, and where it fails."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.example_selectors import SemanticSimilarityExampleSelector
from langchain_core.prompts import PromptTemplate
from langchain_text_splitters import CharacterTextSplitter, RecursiveCharacterTextSplitter
from pydantic import SecretStr

import rapidfireai.automl
import rapidfireai.evals.automl
from rapidfireai.api.code import Code
from rapidfireai.api.data import Data, DataSource
from rapidfireai.api.experiment import ConfigGroup, ExperimentSpec
from rapidfireai.automl import (
    List,
    RFAPIModelConfig,
    RFGridSearch,
    RFLangChainRagSpec,
    RFModelConfig,
    RFOpenAIAPIModelConfig,
    RFPromptManager,
    RFRandomSearch,
    RFSFTConfig,
    RFvLLMModelConfig,
    get_runs,
)
from rapidfireai.automl.search import checked_runs, groups_of
from rapidfireai.bundle import BundleBuilder, digest_of
from rapidfireai.clone.wire import patch_to_wire
from rapidfireai.credentials import lift_secrets
from rapidfireai.errors import BundleError, ConfigError
from rapidfireai.expand import expand
from rapidfireai.labels import label_of
from rapidfireai.source import check_code

MODEL = {"model": "m"}


class Answers(BaseLoader):
    def __init__(self, answers: list[str], api_key: str = "") -> None:
        self.answers = answers
        self.api_key = api_key

    def lazy_load(self) -> Any:
        yield from map(Document, self.answers)


class Embedder:
    def __init__(self, model_name: str = "") -> None:
        self.model_name = model_name


class Reranker(BaseDocumentCompressor):
    top_n: int = 3

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        return list(documents)[: self.top_n]


def preprocess(batch: dict[str, list[Any]], rag: Any, prompt_manager: Any) -> dict[str, list[Any]]:
    return batch


def splitters() -> List:
    return List(
        [RecursiveCharacterTextSplitter(chunk_size=256, chunk_overlap=32), CharacterTextSplitter(separator="|")]
    )


def vllm(**arguments: Any) -> RFvLLMModelConfig:
    return RFvLLMModelConfig(model_config=MODEL, **arguments)


def rag(**arguments: Any) -> RFLangChainRagSpec:
    return RFLangChainRagSpec(document_loader=Answers(["a"]), embedding_cls=Embedder, **arguments)


def wire(config_group: Any) -> tuple[list[ConfigGroup], Any]:
    """Return the groups that are sent, with the bundle of their objects."""
    builder = BundleBuilder()
    groups_of(config_group, builder.lift, "evals")
    bundle = builder.build()
    return groups_of(config_group, builder.lift, "evals"), bundle


def test_knobs_may_stand_anywhere() -> None:
    prompts = RFPromptManager(
        instructions=List(["a", "b"]),
        examples=[{"user_query": "q", "answer": "a"}],
        embedding_cls=Embedder,
        example_selector_cls=SemanticSimilarityExampleSelector,
        example_prompt_template=PromptTemplate.from_template("{user_query} {answer}"),
        k=List([1, 3]),
    )
    config = {
        "vllm_config": vllm(
            sampling_params={"temperature": List([0.0, 1])},
            rag=List([rag(text_splitter=splitters(), search_kwargs={"k": List([3, 5])}), None]),
            prompt_manager=prompts,
        ),
        "batch_size": List([4, 8]),
        "preprocess_fn": List([preprocess, len]),
        "accumulate_metrics_fn": None,
    }
    runs = RFGridSearch(config).get_runs()
    assert len(runs) == 2 * (2 * 2 + 1) * 2 * 2 * 2 * 2
    assert len({repr(run) for run in runs}) == len(runs)
    assert runs == get_runs(config) == get_runs([copy.deepcopy(config)])
    assert "accumulate_metrics_fn" not in runs[0]
    drawn = RFRandomSearch(config, num_runs=6, seed=1).get_runs()
    assert len(drawn) == 6
    assert all(run in runs for run in drawn)


@pytest.mark.parametrize(
    ("written", "models"),
    [
        (vllm, ["vllm_config"]),
        (lambda: {"vllm_config": vllm()}, ["vllm_config"]),
        (lambda: {"pipeline": vllm()}, ["vllm_config"]),
        (lambda: {"openai_config": RFOpenAIAPIModelConfig(model_config=MODEL)}, ["api_config"]),
        (lambda: {"pipeline": List([vllm(), RFAPIModelConfig(model_config=MODEL)])}, ["vllm_config", "api_config"]),
        (lambda: {"pipeline": [vllm(adapter=List(["a", "b"])), vllm()]}, ["vllm_config"] * 3),
        (
            lambda: [RFGridSearch({"vllm_config": vllm()}), [{"api_config": {"model_config": MODEL}}]],
            ["vllm_config", "api_config"],
        ),
    ],
)
def test_every_spelling_of_a_config_group_makes_its_runs(written: Callable[[], Any], models: list[str]) -> None:
    assert [next(iter(run)) for run in get_runs(written())] == models


def test_what_is_sent_makes_the_runs_that_python_sees() -> None:
    config = {
        "vllm_config": vllm(rag=rag(text_splitter=splitters(), reranker_cls=Reranker, reranker_kwargs={"top_n": 2})),
        "preprocess_fn": preprocess,
    }
    groups, bundle = wire(config)
    (group,) = groups
    stored = ConfigGroup.model_validate(json.loads(json.dumps(group.to_wire())))
    first, second = expand([stored], mode="evals")
    references = [run["vllm_config"]["rag"]["text_splitter"]["$ref"] for run in (first, second)]
    assert [each["label"] for each in references] == [
        "RecursiveCharacterTextSplitter(chunk_size=256, chunk_overlap=32)",
        "CharacterTextSplitter(separator='|')",
    ]
    assert all(each["bundle"] == bundle.digest for each in references)
    assert references[0]["digest"] == digest_of(RecursiveCharacterTextSplitter(chunk_size=256, chunk_overlap=32))
    assert references[0]["digest"] != references[1]["digest"]
    assert "digest" not in first["preprocess_fn"]["$ref"]
    assert first["vllm_config"]["rag"]["reranker_cls"]["$ref"]["label"] == "Reranker"


def test_installed_classes_are_named_as_their_documentation_does_and_local_ones_travel() -> None:
    prompts = RFPromptManager(
        examples=[{"user_query": "q"}],
        embedding_cfg={"class": Embedder, "model_name": "e"},
        example_selector_cls=SemanticSimilarityExampleSelector,
        example_prompt_template=PromptTemplate.from_template("{user_query}"),
    )
    ((group,), _) = wire(vllm(prompt_manager=prompts))
    (leaf,) = expand([group], mode="evals")
    manager = leaf["vllm_config"]["prompt_manager"]
    assert manager["example_selector_cls"] == {
        "$class": "langchain_core.example_selectors:SemanticSimilarityExampleSelector"
    }
    assert manager["embedding_cls"]["$ref"]["label"] == "Embedder"
    assert manager["embedding_kwargs"] == {"model_name": "e"}
    assert manager["k"] == 3


SCRIPT = """
from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import BaseDocumentCompressor
from langchain_core.prompts import PromptTemplate
from langchain_text_splitters import RecursiveCharacterTextSplitter
from rapidfireai.bundle import digest_of, make_bundle
class Loader(BaseLoader):
    names = {"a", "b", "c", "d"}
    def __init__(self, path): self.path, self.kinds = path, {"x", "y", "z"}
    def lazy_load(self): yield from {"k", "l", "m"} & self.names
class Reranker(BaseDocumentCompressor):
    top_n: int = 5
    other: str = "x"
    def compress_documents(self, documents, query, callbacks=None): return documents[: self.top_n]
objects = [Loader("p"), Reranker(top_n=2, other="y"), Reranker, RecursiveCharacterTextSplitter(chunk_size=999)]
objects += [PromptTemplate.from_template("{a} {b}")]
print(*map(digest_of, objects), make_bundle({str(n): each for n, each in enumerate(objects)}).digest)
"""


def test_objects_and_their_bundles_have_the_same_digests_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    answers = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == 6


def test_objects_of_a_bundle_are_what_they_were() -> None:
    _, bundle = wire(vllm(rag=rag(text_splitter=splitters(), reranker_cls=Reranker)))
    objects = pickle.loads(bundle.data.partition(b"\n")[2])
    (kind,) = (each for each in objects.values() if isinstance(each, type) and issubclass(each, BaseDocumentCompressor))
    assert kind(top_n=1).compress_documents([Document("a"), Document("b")], "q") == [Document("a")]
    (loader,) = (each for each in objects.values() if isinstance(each, BaseLoader))
    assert loader.load() == [Document("a")]


def test_an_object_that_cannot_travel_is_named() -> None:
    loader = Answers(["a"])
    loader.lock = __import__("threading").Lock()  # type: ignore[attr-defined]
    config = vllm(rag=RFLangChainRagSpec(document_loader=loader, embedding_cls=Embedder))
    with pytest.raises(
        BundleError, match=r"configs\[0\]\.vllm_config\.rag\.document_loader: Answers\(\) cannot be sent"
    ):
        wire(config)


def test_no_label_has_a_secret_or_an_address() -> None:
    assert label_of(Answers(["a"], api_key="sk-1")) == "Answers()"
    assert label_of(preprocess) == "preprocess"
    assert label_of(Reranker(top_n=1)) == "Reranker(top_n=1)"


def test_keys_leave_the_config_and_nobody_sees_them(capsys: pytest.CaptureFixture[str]) -> None:
    api = RFOpenAIAPIModelConfig(
        client_config={"api_key": List(["sk-first", "sk-second"]), "default_headers": {"Authorization": "Bearer t"}},
        model_config=MODEL,
        rag=RFLangChainRagSpec(
            embedding_cls=Embedder,
            embedding_kwargs={"openai_api_key": SecretStr("sk-third")},
            vector_store_cfg={"type": "pgvector", "connection": "postgresql+psycopg://u:pw@db/d"},
        ),
    )
    search = RFGridSearch({"openai_config": api})
    secrets = {"sk-first", "sk-second", "Bearer t", "sk-third", "postgresql+psycopg://u:pw@db/d"}
    (group,) = groups_of(search, lambda value, path: {"$ref": {"key": path}}, "evals")
    lifted, found = lift_secrets(group.config)
    assert set(found.values()) == secrets
    assert all(name.startswith("RAPIDFIRE_KEY_") and len(name) == 22 for name in found)
    assert lift_secrets(group.config) == (lifted, found), "the same key has the same name"
    runs = checked_runs([group.model_copy(update={"config": lifted})])
    said = [repr(api), repr(search.get_runs()), json.dumps(runs), json.dumps(lifted)]
    assert not [secret for secret in secrets for text in said if secret in text]
    name = next(name for name, value in found.items() if value == "sk-first")
    assert runs[0]["api_config"]["client_config"]["api_key"] == {"$env": name}
    with pytest.raises(ConfigError, match=r"client_config\.api_key\[0\]: looks like a secret") as caught:
        checked_runs([group])
    assert "sk-first" not in str(caught.value)


def test_instructions_alone_are_enough_and_a_file_is_read_at_once(tmp_path: Path) -> None:
    file = tmp_path / "instructions.txt"
    file.write_text("Be brief.")
    manager = RFPromptManager(instructions_file_path=file)
    file.write_text("Be long.")
    assert manager.instructions == "Be brief."
    assert dict(manager.given()) == {"instructions": "Be brief."}
    (run,) = get_runs(vllm(prompt_manager=manager))
    assert run["vllm_config"]["prompt_manager"] == {"instructions": "Be brief."}
    with pytest.raises(ConfigError, match=r"instructions_file_path: '.*gone' cannot be read"):
        RFPromptManager(instructions_file_path=tmp_path / "gone")
    with pytest.raises(ConfigError, match="leave one of them out"):
        RFPromptManager(instructions="a", instructions_file_path=file)


def test_configs_can_be_changed_copied_and_sent() -> None:
    config = vllm(sampling_params={"temperature": 0.0}, rag=rag(search_kwargs={"k": 3}))
    other = config.copy()
    other.sampling_params["temperature"] = 1.0
    other.rag.search_kwargs["k"] = 4
    assert (config.sampling_params, config.rag.search_kwargs) == ({"temperature": 0.0}, {"k": 3})
    assert other.rag.document_loader is config.rag.document_loader
    assert config == config.copy() != other
    plain = vllm(sampling_params={"temperature": 0.0})
    assert pickle.loads(pickle.dumps(plain)) == plain
    assert repr(plain) == "RFvLLMModelConfig(model_config={'model': 'm'}, sampling_params={'temperature': 0.0})"


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            lambda: RFvLLMModelConfig(model_confg=MODEL),
            "RFvLLMModelConfig has no argument model_confg; did you mean model_config?",
        ),
        (lambda: RFLangChainRagSpec(embeding_cls=Embedder), "did you mean embedding_cls?"),
        (lambda: RFPromptManager(instruction="x"), "did you mean instructions?"),
        (lambda: RFOpenAIAPIModelConfig(rpm=3), "RFOpenAIAPIModelConfig has no argument rpm"),
        (lambda: rag(search_type="best"), "RFLangChainRagSpec.search_type: must be one of similarity"),
        (
            lambda: RFLangChainRagSpec(embedding_cls=Embedder("m")),
            "embedding_cls: must be the class Embedder, not an instance of it; its arguments go into embedding_kwargs",
        ),
        (lambda: rag(reranker_cls=List([Reranker, Reranker()])), "reranker_cls[1]: must be the class Reranker"),
        (
            lambda: rag(text_splitter=RecursiveCharacterTextSplitter),
            "must be an object such as RecursiveCharacterTextSplitter(...), not the class",
        ),
        (lambda: rag(text_splitter="recursive"), "RFLangChainRagSpec.text_splitter: must be a text splitter"),
        (
            lambda: rag(search_kwargs={"k": List([1, 0])}),
            "search_kwargs.k[1]: must be a whole number of at least 1, not 0",
        ),
        (lambda: vllm(sampling_params={"max_token": 3}), "did you mean max_tokens?"),
        (lambda: RFOpenAIAPIModelConfig(rpm_limit=0), "rpm_limit: must be a whole number of at least 1, not 0"),
        (
            lambda: RFAPIModelConfig(base_url="http://a", client_config={"base_url": "http://b"}),
            "belongs into client_config",
        ),
        (lambda: RFGridSearch({"api_config": vllm()}), "api_config: is a RFvLLMModelConfig; write it as vllm_config"),
        (lambda: RFGridSearch({"vllm_config": vllm()}, trainer_type="SFT"), "leave trainer_type out"),
        (
            lambda: RFGridSearch({"vllm_config": vllm(), "preprocess_fn": Embedder()}),
            "preprocess_fn: must be a function, not Embedder(...)",
        ),
        (lambda: RFGridSearch({"vllm_config": vllm(), "batchsize": 3}), "did you mean batch_size?"),
        (lambda: RFGridSearch(rag()), "RFLangChainRagSpec is a part of a config"),
        (lambda: get_runs([vllm(), RFModelConfig("m", training_args=RFSFTConfig())]), "make a group of each"),
        (
            lambda: RFRandomSearch(
                [{"vllm_config": vllm()}, RFModelConfig("m", training_args=RFSFTConfig())], num_runs=1
            ),
            "make one RFRandomSearch for each",
        ),
        (lambda: groups_of(vllm(), lambda *_: {}), 'call run_evals of an Experiment with mode="evals"'),
        (
            lambda: groups_of(RFModelConfig("m", training_args=RFSFTConfig()), lambda *_: {}, "evals"),
            'call run_fit of an Experiment with mode="fit"',
        ),
    ],
)
def test_a_wrong_value_fails_where_it_is_written(write: Callable[[], Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        write()
    assert words in str(caught.value)


def test_a_patch_may_hold_objects_as_a_config_does() -> None:
    def lift(value: object, path: str) -> dict[str, Any]:
        return {"$ref": {"key": path}}

    patch = {"pipeline": vllm(adapter="a"), "rag.reranker_cls": SemanticSimilarityExampleSelector, "batch_size": None}
    assert patch_to_wire(patch, lift) == {
        "vllm_config": {"model_config": MODEL, "adapter": "a"},
        "rag.reranker_cls": {"$class": "langchain_core.example_selectors:SemanticSimilarityExampleSelector"},
        "batch_size": None,
    }
    assert patch_to_wire(vllm(), lift) == {"vllm_config": {"model_config": MODEL}}


def test_functions_of_a_manifest_are_looked_for_in_its_source_wherever_they_stand() -> None:
    config = {"vllm_config": {"model_config": MODEL, "rag": {"embedding_cls": {"$function": "Mine"}}}}
    rows = Data(eval=DataSource(uri="pvc://data/rows.jsonl"))

    def spec(source: str) -> ExperimentSpec:
        return ExperimentSpec(mode="evals", configs=[ConfigGroup(config=config)], data=rows, code=Code(source=source))

    check_code(spec("class Mine: ..."))
    with pytest.raises(
        ConfigError, match=r"rag\.embedding_cls: spec\.code\.source does not define 'Mine'; did you mean"
    ):
        check_code(spec("class Miner: ..."))


def test_notebooks_find_the_classes_where_they_know_them() -> None:
    for name in rapidfireai.automl.__all__:
        assert getattr(rapidfireai.evals.automl, name) is getattr(rapidfireai.automl, name)


def test_importing_the_classes_imports_no_library_of_the_workers() -> None:
    script = "import rapidfireai.automl, rapidfireai.bundle, rapidfireai.clone.wire, sys; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    modules = {each.partition(".")[0] for each in answer.stdout.split()}
    assert not {"torch", "vllm", "openai", "langchain_core", "langchain_community", "transformers"} & modules
