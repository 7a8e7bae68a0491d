"""Searching an index: types, filters, rerankers, templates, and what a notebook reads of a rag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_community.vectorstores import FAISS
from tests.evals.rags import FAKE, Workspace, contents, named, words

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals import rag
from rapidfireai_worker.evals.parts import Rag

pytestmark = pytest.mark.xdist_group("rag")
LINES = words(60)
QUERIES = [*LINES[:5], *(f"query {n}" for n in range(15))]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def loader(workspace: Workspace) -> dict[str, Any]:
    return named("Lines", path=workspace.write("lines.txt", LINES))


@pytest.mark.filterwarnings(
    "ignore:Relevance scores must be between"
)  # vectors of the fake embedder are no unit vectors
@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("similarity", {}),
        ("similarity", {"k": 3}),
        ("similarity", {"k": 4, "filter": {"odd": True}}),
        ("similarity", {"k": 4, "fetch_k": 60, "filter": {"line": {"$gt": 30}}}),
        ("similarity", {"k": 100}),
        ("similarity_score_threshold", {"k": 6, "score_threshold": 0.9}),
        ("mmr", {"k": 4, "fetch_k": 12, "lambda_mult": 0.2}),
        ("mmr", {"k": 4, "fetch_k": 12, "filter": {"odd": False}}),
    ],
)
def test_it_finds_what_langchains_own_faiss_finds(
    workspace: Workspace, loader: dict[str, Any], kind: str, kwargs: dict[str, Any]
) -> None:
    opened = workspace.opened(document_loader=loader, search_type=kind, search_kwargs=kwargs)
    embedder = opened.vector_store.embedding_function.embedder
    metadata = [{"line": n, "odd": n % 2 == 1} for n in range(len(LINES))]
    plain = FAISS.from_texts(LINES, embedder, metadatas=metadata)
    retriever = plain.as_retriever(search_type=kind, search_kwargs=opened.search_kwargs)
    expected = contents([retriever.invoke(query) for query in QUERIES])

    assert contents(opened.get_context(QUERIES, serialize=False)) == expected
    assert contents([opened.retriever.invoke(query) for query in QUERIES]) == expected
    assert any(expected)


def test_the_nearest_documents_are_those_of_a_plain_computation(workspace: Workspace, loader: dict[str, Any]) -> None:
    opened = workspace.opened(document_loader=loader)
    embedder = opened.vector_store.embedding_function.embedder
    documents, asked = np.array(embedder.embed_documents(LINES)), np.array(embedder.embed_documents(QUERIES))
    distances = ((asked[:, None, :] - documents[None, :, :]) ** 2).sum(axis=2)
    nearest = [[LINES[place] for place in row[:5]] for row in np.argsort(distances, axis=1, kind="stable")]
    assert contents(opened.get_context(QUERIES, serialize=False)) == nearest


def test_a_filter_may_be_a_function(workspace: Workspace, loader: dict[str, Any]) -> None:
    kwargs = {"k": 3, "filter": {"$function": "tests.evals.rags:is_odd"}}
    found = workspace.opened(document_loader=loader, search_kwargs=kwargs).get_context(QUERIES, serialize=False)
    assert all(each.metadata["odd"] for documents in found for each in documents)


def test_documents_are_written_with_their_metadata(workspace: Workspace, loader: dict[str, Any]) -> None:
    opened: Rag = workspace.opened(document_loader=loader, search_kwargs={"k": 2})
    (text,) = opened.get_context([LINES[7]])
    first, second = text.split("\n\n")
    assert first == f"line: 7; odd: True:\n{LINES[7]}"
    assert second.startswith("line: ")
    assert opened.serialize_documents([[], []]) == ["", ""]


def test_a_template_writes_documents(workspace: Workspace, loader: dict[str, Any]) -> None:
    opened = workspace.opened(
        document_loader=loader,
        search_kwargs={"k": 1},
        document_template={"$function": "tests.evals.rags:shout"},
    )
    assert opened.get_context([LINES[7]]) == [LINES[7].upper()]


def test_a_reranker_reorders_what_is_found_unless_it_is_left_out(workspace: Workspace, loader: dict[str, Any]) -> None:
    opened = workspace.opened(
        document_loader=loader,
        search_kwargs={"k": 4},
        reranker_cls={"$class": "tests.evals.rags:Backwards"},
        reranker_kwargs={"top_n": 2},
    )
    found = contents(opened.get_context(QUERIES, use_reranker=False, serialize=False))
    reranked = contents(opened.get_context(QUERIES, serialize=False))
    assert [len(each) for each in found] == [4] * len(QUERIES)
    assert reranked == [each[::-1][:2] for each in found]


def test_any_vector_store_of_langchain_does(workspace: Workspace, loader: dict[str, Any]) -> None:
    store = {"$class": "langchain_core.vectorstores:InMemoryVectorStore"}
    opened = workspace.opened(document_loader=loader, vector_store=store, search_kwargs={"k": 1})
    assert contents(opened.get_context(LINES[:3], serialize=False)) == [[line] for line in LINES[:3]]
    again = workspace.opened(document_loader=loader, vector_store=store, search_type="mmr")
    assert again.vector_store is opened.vector_store, "it is filled once a process"


def test_a_retriever_is_asked_as_it_is(workspace: Workspace) -> None:
    spec = workspace.spec(retriever=named("Fixed"), embedding_cls=None)
    assert spec.digest is None
    assert rag.is_built(spec, workspace.volume)
    assert rag.open(spec, workspace.volume).get_context(["a", "b"]) == ["found a", "found b"]


def test_a_notebook_reads_the_parts(workspace: Workspace, loader: dict[str, Any]) -> None:
    opened = workspace.opened(document_loader=loader, search_type="mmr", search_kwargs={"k": 3})
    assert opened.search_type == "mmr"
    assert opened.search_kwargs == {"k": 3, "fetch_k": 20, "lambda_mult": 0.5}
    assert opened.vector_store.similarity_search(LINES[9], k=1)[0].metadata["line"] == 9
    assert opened.reranker is None


BAD: list[tuple[dict[str, Any], str]] = [
    ({"search_type": "nearest"}, r"rag\.search_type: must be one of similarity, .*, not 'nearest'"),
    ({"search_kwargs": {"k": 0}}, r"rag\.search_kwargs\.k: must be a whole number from 1 on, not 0"),
    ({"search_kwargs": {"k": 2.5}}, r"rag\.search_kwargs\.k: must be a whole number"),
    ({"search_kwargs": {"top_k": 2}}, r"rag\.search_kwargs\.top_k: is unknown.*there are k"),
    ({"search_kwargs": {"lambda": 2}}, r"rag\.search_kwargs\.lambda: is unknown; did you mean lambda_mult\?"),
    ({"search_kwargs": {"lambda_mult": 2}}, r"lambda_mult: must be a number from 0 to 1, not 2"),
    ({"search_kwargs": {"k": 9, "fetch_k": 3}}, r"fetch_k: 3 is less than k: 9"),
    ({"search_kwargs": {"filter": 3}}, r"filter: must be a mapping of metadata or a function, not 3"),
    ({"embedding_cls": None}, r"rag\.embedding_cls: is missing; name a class of LangChain embeddings"),
    ({"embedding_cls": {"$class": FAKE["embedding_cls"]["$class"], "kwargs": {"size": 3}}}, "must be a class, not an"),
    ({"embedding_cls": {"$class": "tests.evals.rags:Backwards"}}, r"embedding_cls: Backwards has no embed_documents"),
    (
        {"reranker_cls": {"$class": "tests.evals.rags:Backwards", "kwargs": {}}},
        r"reranker_cls: must be a class, not an",
    ),
    ({"reranker_cls": {"$class": "tests.evals.rags:Lines"}}, r"reranker_cls: Lines has no compress_documents"),
    ({"reranker_kwargs": {"top_n": 2}}, r"rag\.reranker_cls: is missing, and there are reranker_kwargs"),
    (
        {"reranker_cls": {"$class": "tests.evals.rags:Backwards"}, "reranker_kwargs": {"top_n": 6}},
        r"rag\.reranker_kwargs\.top_n: 6 is more than search_kwargs\.k: 5",
    ),
    ({"document_loader": None}, r"rag\.document_loader: is missing; name a loader, or .* data\.documents"),
    ({"document_loader": named("Broken")}, r"document_loader: Broken raised OSError: the share is not mounted"),
    ({"document_loader": [named("Lines", path="pvc://data/empty.txt")]}, r"document_loader: has no documents; correct"),
    (
        {"document_loader": named("Lines", path="pvc://data/none.txt")},
        r"document_loader.*pvc://data/none\.txt does not",
    ),
    ({"document_loader": named("Lines", folder="x")}, r"document_loader: .*Lines\(folder\) raised TypeError"),
    ({"document_loader": {"$class": "tests.evals.rags:Nothing"}}, r"document_loader: .*has no function 'Nothing'"),
    ({"document_loader": "lines.txt"}, r"document_loader: str is no LangChain document loader"),
    ({"text_splitter": "recursive"}, r"text_splitter: must be an instance of a LangChain text splitter"),
    ({"vector_store": {"type": "milvus"}}, r"rag\.vector_store\.type: must be faiss or pgvector, not 'milvus'"),
    ({"vector_store": {"$class": "tests.evals.rags:Lines"}}, r"vector_store: .* is no vector store of LangChain"),
    ({"retriever": {"$class": "tests.evals.rags:Lines", "kwargs": {"path": ""}}}, r"retriever: must be an instance"),
    ({"document_template": "{page_content}"}, r"document_template: must be a function"),
    ({"enable_gpu_search": "yes"}, r"enable_gpu_search: must be true or false, not 'yes'"),
    ({"chunk_size": 3}, r"rag\.chunk_size: is unknown; there are document_loader"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[f"{next(iter(c))}-{n}" for n, (c, _) in enumerate(BAD)])
def test_what_is_wrong_is_named_with_the_fix(
    workspace: Workspace, loader: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    workspace.write("empty.txt", [])
    with pytest.raises(RunFailure, match=message):
        workspace.opened(**{"document_loader": loader, **config})
    assert workspace.indexes() == []


def test_wrong_arguments_of_an_embedder_are_named(workspace: Workspace, loader: dict[str, Any]) -> None:
    with pytest.raises(
        RunFailure, match=r"rag\.embedding_kwargs: DeterministicFakeEmbedding with siz raised"
    ) as caught:
        workspace.opened(document_loader=loader, embedding_kwargs={"siz": 3})
    assert not caught.value.retry


def test_an_embedder_that_fails_fails_the_index_and_leaves_nothing(
    workspace: Workspace, loader: dict[str, Any]
) -> None:
    refusing = {"embedding_cls": {"$class": "tests.evals.rags:Refusing"}, "embedding_kwargs": {"size": 4}}
    with pytest.raises(RunFailure, match=r"embedding_cls: Refusing could not embed: ConnectionError: 401: the key"):
        workspace.opened(document_loader=loader, **refusing)
    assert workspace.indexes() == []


def test_a_reranker_that_raises_is_named(workspace: Workspace, loader: dict[str, Any]) -> None:
    opened = workspace.opened(document_loader=loader, reranker_cls={"$class": "tests.evals.rags:Failing"})
    with pytest.raises(RunFailure, match=r"rag\.reranker_cls: Failing raised KeyError: 'score'"):
        opened.get_context(["wing"])


@pytest.mark.parametrize("queries", ["wing", [1, 2]])
def test_queries_are_a_list_of_texts(workspace: Workspace, loader: dict[str, Any], queries: Any) -> None:
    with pytest.raises(TypeError, match="batch_queries must be a list of texts"):
        workspace.opened(document_loader=loader).get_context(queries)


def test_where_there_is_no_gpu_the_log_says_so(
    workspace: Workspace, loader: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    import faiss

    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("faiss-gpu is installed")
    assert not workspace.opened(document_loader=loader, enable_gpu_search=True).on_gpu
    assert "this worker has faiss-cpu" in capsys.readouterr().out
