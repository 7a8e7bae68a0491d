"""RAG over a real PostgreSQL with pgvector: written once for an index, searched by every run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evals.rags import EMBEDDED, Workspace, contents, named, words
from tests.support import postgres

from rapidfireai_worker.engine import ChunkControl, RunFailure
from rapidfireai_worker.evals import rag

pytestmark = [
    pytest.mark.xdist_group("pgvector"),
    pytest.mark.skipif(postgres.programs() is None, reason=f"package {postgres.PACKAGE} is not installed (make setup)"),
]
COUNTED = {"embedding_cls": {"$class": "tests.evals.rags:Counted"}, "embedding_kwargs": {"size": 16}}
LINES = words(300)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres.server() as address:
        yield address


@pytest.fixture
def config(workspace: Workspace, database: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a rag whose address is in a variable, as a Secret gives it."""
    monkeypatch.setenv("DATABASE", database)
    EMBEDDED.clear()
    return {
        "document_loader": named("Lines", path=workspace.write("lines.txt", LINES)),
        "vector_store": {"type": "pgvector", "connection": {"$env": "DATABASE"}, "batch_size": 100},
        **COUNTED,
    }


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def collections(database: str) -> dict[str, int]:
    """Return how many documents each collection has."""
    from sqlalchemy import create_engine, text

    engine = create_engine(database)
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "select c.name, count(e.id) from langchain_pg_collection c "
                "left join langchain_pg_embedding e on e.collection_id = c.uuid group by c.name"
            )
        )
        counts = {row[0]: row[1] for row in found}
    engine.dispose()
    return counts


def test_documents_are_written_once_for_an_index_and_found_by_all(
    workspace: Workspace, config: dict[str, Any], database: str
) -> None:
    opened = workspace.opened(**config, search_kwargs={"k": 7})
    name = f"rapidfire-{str(opened.digest)[:40]}"
    assert collections(database)[name] == 300
    assert EMBEDDED == [100, 100, 100]

    workspace.experiment = "two"
    rag.close_all()
    again = workspace.opened(**config, search_type="mmr")
    assert again.digest == opened.digest
    assert EMBEDDED == [100, 100, 100], "the second experiment searches what is there"
    assert collections(database)[name] == 300
    assert len(again.get_context(["wing"], serialize=False)[0]) == 5


def test_it_finds_what_is_nearest(workspace: Workspace, config: dict[str, Any]) -> None:
    queries = [f"query {n}" for n in range(20)]
    opened = workspace.opened(**config, search_kwargs={"k": 7})
    embedder = opened.vector_store.embeddings.embedder
    documents = np.array(embedder.embed_documents(LINES))
    asked = np.array(embedder.embed_documents(queries))
    cosine = asked @ documents.T / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(documents, axis=1)
    nearest = [[LINES[place] for place in row[:7]] for row in np.argsort(-cosine, axis=1)]
    assert contents(opened.get_context(queries, serialize=False)) == nearest


def test_a_filter_and_a_threshold_are_the_databases(workspace: Workspace, config: dict[str, Any]) -> None:
    odd = workspace.opened(**config, search_kwargs={"k": 9, "filter": {"odd": {"$eq": True}}})
    found = odd.get_context(["wing"], serialize=False)[0]
    assert len(found) == 9
    assert all(each.metadata["odd"] for each in found)
    near = workspace.opened(
        **config, search_type="similarity_score_threshold", search_kwargs={"k": 9, "score_threshold": 0.999}
    )
    assert [len(each) for each in near.get_context([LINES[5], "wing"], serialize=False)] == [1, 0]


def test_a_build_that_broke_off_leaves_no_document_twice(
    workspace: Workspace, config: dict[str, Any], database: str
) -> None:
    spec = workspace.spec(**config, text_splitter=named("Halves"))
    name = f"rapidfire-{str(spec.digest)[:40]}"

    def stop(step: int, metrics: Any) -> None:
        if metrics["Documents Indexed"] == 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rag.build(spec, workspace.volume, ChunkControl(report=stop))
    assert collections(database)[name] == 200
    assert not rag.is_built(spec, workspace.volume)
    rag.build(spec, workspace.volume, ChunkControl())
    assert collections(database)[name] == 600


def test_the_class_with_its_arguments_is_the_same(workspace: Workspace, config: dict[str, Any], database: str) -> None:
    config["vector_store"] = {
        "$class": "langchain_postgres:PGVector",
        "kwargs": {"connection": {"$env": "DATABASE"}, "collection_name": "abstracts"},
    }
    opened = workspace.opened(**config)
    assert collections(database)[f"abstracts-{str(opened.digest)[:20]}"] == 300
    assert opened.get_context([LINES[3]], serialize=False)[0][0].page_content == LINES[3]


def test_a_collection_that_others_filled_is_searched_as_it_is(
    workspace: Workspace, config: dict[str, Any], database: str
) -> None:
    built = workspace.opened(**config)
    config["vector_store"]["collection_name"] = f"rapidfire-{str(built.digest)[:40]}"
    del config["document_loader"]
    spec = workspace.spec(**config)
    assert spec.digest is None
    assert rag.is_built(spec, workspace.volume)
    found = rag.open(spec, workspace.volume).get_context(["wing"])
    assert found == built.get_context(["wing"])


def test_a_server_that_is_not_there_is_said(
    workspace: Workspace, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE", "postgresql+psycopg://rag:letmein@/postgres?host=/nowhere")
    with pytest.raises(RunFailure, match=r"vllm_config\.rag\.vector_store: PGVector raised .*/nowhere") as caught:
        workspace.opened(**config, text_splitter=named("Halves", parts=3))
    assert "letmein" not in caught.value.message


def test_a_connection_is_needed(workspace: Workspace, config: dict[str, Any]) -> None:
    config["vector_store"] = {"type": "pgvector"}
    with pytest.raises(RunFailure, match=r"vllm_config\.rag\.vector_store\.connection: is missing"):
        workspace.spec(**config)
