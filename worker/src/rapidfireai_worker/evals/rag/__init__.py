"""Retrieval: which documents belong to a query.

A run's rag is an index (documents, how they are split, what embeds them, where vectors lie) and a search (type, number,
filter, reranker, template). Runs that differ in the search alone share the index: it lies at `indexes/<digest>/`, built
once, memory-mapped once a process.

**What decides an index.** Its digest is the sha256 of: the content of the documents (text and metadata, in order), the
splitter (class and arguments, or the object's own digest) with its library's version, the embedder (class, its
package's version, arguments; files and folders that these name count by what is in them), the vector store, and whether
search is exact. How documents were loaded does not count: two loaders that return the same documents share an index,
and a file that has changed under the same loader makes another one.

**When documents are loaded.** The first worker that prepares a run with a loader loads them, for the whole experiment:
they lie at `experiments/<uid>/documents/<loader>/`. Every later run, worker and resume of the experiment reads these,
whatever becomes of the originals, so that runs stay comparable; another experiment loads anew.

Use: `RagSpec.of(...)`, then `is_built(spec, volume)`, `build(spec, volume, control)`, `open(spec, volume)`.
"""

from rapidfireai_worker.evals.rag.building import build, is_built
from rapidfireai_worker.evals.rag.retrieval import Retrieval, close_all
from rapidfireai_worker.evals.rag.retrieval import open_rag as open
from rapidfireai_worker.evals.rag.spec import RagSpec

__all__ = ["RagSpec", "Retrieval", "build", "close_all", "is_built", "open"]
