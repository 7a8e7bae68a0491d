"""Indexes: what decides them, that each is built once, whole, and shared."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evals.rags import CHANGE, EMBEDDED, Lines, Workspace, contents, named, words

from rapidfireai_worker.engine import ChunkControl, Discarded, RunFailure
from rapidfireai_worker.evals import rag
from rapidfireai_worker.evals.rag.building import manifest_of

pytestmark = pytest.mark.xdist_group("rag")
COUNTED = {"embedding_cls": {"$class": "tests.evals.rags:Counted"}, "embedding_kwargs": {"size": 16}}
SPLITTER = {"$class": "langchain_text_splitters:RecursiveCharacterTextSplitter"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    EMBEDDED.clear()
    Lines.calls = 0
    return Workspace(tmp_path)


@pytest.fixture
def loader(workspace: Workspace) -> dict[str, Any]:
    return named("Lines", path=workspace.write("lines.txt", words(40)))


def test_an_index_is_built_once_and_found_by_a_second_experiment(workspace: Workspace, loader: dict[str, Any]) -> None:
    first = workspace.opened(document_loader=loader, **COUNTED)
    built = list(EMBEDDED)
    workspace.experiment = "two"
    second = workspace.opened(document_loader=loader, **COUNTED)

    assert first.digest == second.digest
    assert workspace.indexes() == [first.digest]
    assert EMBEDDED == built == [40]
    assert (workspace.volume.indexes / str(first.digest) / ".used").exists()


def test_what_differs_in_search_alone_shares_an_index(workspace: Workspace, loader: dict[str, Any]) -> None:
    searches: list[dict[str, Any]] = [
        {},
        {"search_type": "mmr", "search_kwargs": {"k": 3, "lambda_mult": 0.1}},
        {"reranker_cls": {"$class": "tests.evals.rags:Backwards"}, "reranker_kwargs": {"top_n": 1}},
        {"document_template": {"$function": "tests.evals.rags:shout"}},
    ]
    opened = [workspace.opened(document_loader=loader, **search) for search in searches]
    assert len({each.digest for each in opened}) == 1
    assert len({id(each.vector_store.index) for each in opened}) == 1, "the index is mapped once"


@pytest.mark.parametrize(
    "change",
    [
        {"text_splitter": {**SPLITTER, "kwargs": {"chunk_size": 9, "chunk_overlap": 0}}},
        {"embedding_kwargs": {"size": 17}},
        {"enable_gpu_search": True},
        {"vector_store": {"$class": "langchain_core.vectorstores:InMemoryVectorStore"}},
    ],
)
def test_what_the_index_is_made_of_decides_it(
    workspace: Workspace, loader: dict[str, Any], change: dict[str, Any]
) -> None:
    assert workspace.spec(document_loader=loader).digest != workspace.spec(document_loader=loader, **change).digest


def test_a_changed_file_under_the_same_loader_is_another_index_in_the_next_experiment(
    workspace: Workspace, loader: dict[str, Any]
) -> None:
    first = workspace.spec(document_loader=loader).digest
    workspace.write("lines.txt", [*words(40), "one more"])
    assert workspace.spec(document_loader=loader).digest == first, "the experiment keeps what it began with"
    assert Lines.calls == 1
    workspace.experiment = "two"
    assert workspace.spec(document_loader=loader).digest != first


def test_how_the_same_documents_are_loaded_does_not_matter(workspace: Workspace, loader: dict[str, Any]) -> None:
    halves = [workspace.write("a.txt", ["x", "y"]), workspace.write("b.txt", ["x", "y"])]
    once = workspace.spec(document_loader=[named("Lines", path=halves[0]), None]).digest
    again = workspace.spec(document_loader=named("Lines", path=halves[1])).digest
    assert once == again


def test_another_model_under_the_same_path_is_another_index(workspace: Workspace, loader: dict[str, Any]) -> None:
    uri = workspace.write("weights", ["one"])
    config = {"document_loader": loader, "embedding_cls": {"$class": "tests.evals.rags:Changed"}}
    kwargs = {"size": 4}
    before = workspace.spec(**config, embedding_kwargs={**kwargs, "path": uri})
    workspace.write("weights", ["another"])
    assert workspace.spec(**config, embedding_kwargs={**kwargs, "path": uri}).digest != before.digest


def test_a_number_that_the_api_server_gives_back_as_an_integer_is_the_same(
    workspace: Workspace, loader: dict[str, Any]
) -> None:
    splitter = {**SPLITTER, "kwargs": {"chunk_size": 64, "chunk_overlap": 0}}
    other = {**SPLITTER, "kwargs": {"chunk_size": 64.0, "chunk_overlap": 0}}
    specs = [workspace.spec(document_loader=loader, text_splitter=each) for each in (splitter, other)]
    assert specs[0].digest == specs[1].digest


def test_documents_may_be_a_data_set(workspace: Workspace) -> None:
    rows = [{"doc_id": str(n), "text": text} for n, text in enumerate(words(5))]
    workspace.documents = workspace.write("documents.jsonl", [json.dumps(row) for row in rows])
    found = workspace.opened().get_context([rows[3]["text"]], serialize=False)[0][0]
    assert (found.page_content, found.metadata) == (rows[3]["text"], {"doc_id": "3"})


def test_the_index_says_what_it_is_made_of(workspace: Workspace, loader: dict[str, Any]) -> None:
    opened = workspace.opened(document_loader=loader)
    said = json.loads((workspace.volume.indexes / str(opened.digest) / "index.json").read_text())
    assert (said["kind"], said["dimension"], said["documents"], said["chunks"]) == ("exact", 16, 40, 40)
    assert said["made_of"]["embedding"][1] == "langchain_core.embeddings:DeterministicFakeEmbedding"
    assert said["seconds"] >= 0


def test_secrets_are_in_no_file(workspace: Workspace, loader: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSPHRASE", "open sesame")
    workspace.opened(
        document_loader=loader,
        embedding_cls={"$class": "tests.evals.rags:Changed"},
        embedding_kwargs={"size": 4, "token": {"$env": "PASSPHRASE"}},
    )
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert files
    assert not any(b"open sesame" in path.read_bytes() for path in files)


def test_progress_is_told_batch_by_batch(workspace: Workspace) -> None:
    loader = named("Lines", path=workspace.write("many.txt", words(300)))
    told: list[tuple[int, dict[str, float]]] = []
    control = ChunkControl(report=lambda step, metrics: told.append((step, dict(metrics))))
    rag.build(workspace.spec(document_loader=loader), workspace.volume, control)
    assert [metrics["Documents Indexed"] for _, metrics in told] == [0, 128, 256, 300]
    assert {(step, metrics["Documents"]) for step, metrics in told} == {(0, 300)}


@pytest.mark.parametrize("event", ["discard", "park"])
def test_a_builder_that_is_stopped_leaves_nothing(workspace: Workspace, event: str) -> None:
    loader = named("Lines", path=workspace.write("many.txt", words(300)))
    spec = workspace.spec(document_loader=loader)
    control: ChunkControl

    def stop(step: int, metrics: Any) -> None:
        if metrics["Documents Indexed"] == 128:
            getattr(control, event).set()

    control = ChunkControl(report=stop)
    with pytest.raises(Discarded):
        rag.build(spec, workspace.volume, control)
    assert workspace.indexes() == []
    assert not rag.is_built(spec, workspace.volume)


def test_of_two_builders_the_second_finds_it_done(workspace: Workspace, loader: dict[str, Any]) -> None:
    spec = workspace.spec(document_loader=loader, **COUNTED)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: rag.build(spec, workspace.volume, ChunkControl()), range(2)))
    assert EMBEDDED == [40]
    assert workspace.indexes() == [spec.digest]


def test_of_two_processes_the_rename_chooses_one(workspace: Workspace, loader: dict[str, Any]) -> None:
    """The other process finishes first, while ours embeds."""
    spec = workspace.spec(document_loader=loader)
    directory = workspace.volume.indexes / str(spec.digest)
    rag.build(spec, workspace.volume, ChunkControl())
    aside = directory.with_name("aside")
    directory.rename(aside)
    report = lambda step, metrics: aside.rename(directory) if aside.exists() else None  # noqa: E731
    rag.build(spec, workspace.volume, ChunkControl(report=report))
    assert workspace.indexes() == [spec.digest]
    assert manifest_of(directory) is not None


def test_a_damaged_index_is_built_again(workspace: Workspace, loader: dict[str, Any]) -> None:
    spec = workspace.spec(document_loader=loader)
    rag.build(spec, workspace.volume, ChunkControl())
    vectors = workspace.volume.indexes / str(spec.digest) / "index.faiss"
    vectors.write_bytes(vectors.read_bytes()[:100])
    assert not rag.is_built(spec, workspace.volume)
    with pytest.raises(RunFailure, match="not on the volume, or was damaged"):
        rag.open(spec, workspace.volume)
    rag.build(spec, workspace.volume, ChunkControl())
    assert rag.open(spec, workspace.volume).get_context(["wing"])
    assert workspace.indexes() == [spec.digest]


def test_vectors_of_another_size_than_the_indexs_are_refused(workspace: Workspace, loader: dict[str, Any]) -> None:
    config = {
        "document_loader": loader,
        "embedding_cls": {"$class": "tests.evals.rags:Changed"},
        "embedding_kwargs": {"size": 4},
    }
    spec = workspace.spec(**config)
    rag.build(spec, workspace.volume, ChunkControl())
    rag.close_all()
    CHANGE.append(0.0)
    try:
        with pytest.raises(RunFailure, match=r"vllm_config\.rag\.embedding_cls: .* 5 numbers and those of index .* 4"):
            rag.open(spec, workspace.volume)
    finally:
        CHANGE.clear()


def test_vectors_and_documents_are_memory_mapped(workspace: Workspace, loader: dict[str, Any]) -> None:
    opened = workspace.opened(document_loader=loader)
    mapped = Path("/proc/self/maps").read_text()
    for name in ("index.faiss", "documents.arrow"):
        assert str(workspace.volume.indexes / str(opened.digest) / name) in mapped


def test_a_large_collection_is_indexed_by_hnsw_and_a_copy_of_it_exactly(workspace: Workspace) -> None:
    """HNSW finds at least 95 % of what is nearest; the exact index all of it, in the right order."""
    lines = words(3000)
    loader = named("Lines", path=workspace.write("large.txt", lines))
    approximate = workspace.opened(document_loader=loader, search_kwargs={"k": 10})
    exact = workspace.opened(document_loader=loader, search_kwargs={"k": 10}, enable_gpu_search=True)
    assert type(approximate.vector_store.index).__name__ == "IndexHNSWFlat"
    assert (approximate.vector_store.index.hnsw.efSearch, approximate.vector_store.index.hnsw.efConstruction) == (
        32,
        64,
    )

    queries = [f"query {n}" for n in range(60)]
    nearest = _brute_force(exact.vector_store.embedding_function, lines, queries, 10)
    assert contents(exact.get_context(queries, serialize=False)) == nearest
    found = contents(approximate.get_context(queries, serialize=False))
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, nearest, strict=True)])
    assert recall >= 0.95


def _brute_force(embedder: Any, lines: list[str], queries: list[str], k: int) -> list[list[str]]:
    documents = np.array(embedder.embedder.embed_documents(lines))
    asked = np.array(embedder.embedder.embed_documents(queries))
    distances = ((asked[:, None, :] - documents[None, :, :]) ** 2).sum(axis=2)
    return [[lines[place] for place in row[:k]] for row in np.argsort(distances, axis=1, kind="stable")]


def test_many_threads_search_at_once(workspace: Workspace, loader: dict[str, Any]) -> None:
    opened = workspace.opened(document_loader=loader, search_type="mmr")
    queries = [f"query {n}" for n in range(64)]
    alone = [opened.get_context([query])[0] for query in queries]
    begin = threading.Barrier(8)

    def ask(worker: int) -> list[str]:
        begin.wait(timeout=30)
        mine: list[str] = opened.get_context(queries[worker * 8 : worker * 8 + 8])
        return mine

    with ThreadPoolExecutor(8) as pool:
        together = [text for texts in pool.map(ask, range(8)) for text in texts]
    assert together == alone


@pytest.mark.gpu
def test_an_exact_index_is_searched_on_the_gpu(workspace: Workspace, loader: dict[str, Any]) -> None:
    faiss = pytest.importorskip("faiss")
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        pytest.skip("needs faiss-gpu and a GPU")
    queries = [f"query {n}" for n in range(20)]
    on_gpu = workspace.opened(document_loader=loader, enable_gpu_search=True)
    assert on_gpu.on_gpu
    on_cpu = workspace.opened(document_loader=loader)
    assert on_gpu.get_context(queries) == on_cpu.get_context(queries)
