"""What the engines measure of themselves, wherever in the process that is; `WorkerMetrics` shows it.

One worker process has one engine, so these belong to the module, as metrics usually do.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

PREFIX = "rapidfire_worker_"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
_SWAPS = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(PREFIX + name, text, labels, registry=None)


def _seconds(name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
    return Histogram(PREFIX + name, text, labels, registry=None, buckets=buckets)


SWAP_SECONDS = _seconds(
    "swap_seconds",
    "Time to change from run to run: warm (the session was there), build (a new one), restore (one from a checkpoint), "
    "park (its state is copied), evict (it leaves), engine (an engine for evaluations is started or woken).",
    "kind",
    buckets=_SWAPS,
)
INDEX_SECONDS = _seconds("index_seconds", "Time to build an index of documents.")
INDEX_CHUNKS = _counter("index_chunks", "Pieces of documents in the indexes that were built.")
PROVIDER_REQUESTS = _counter(
    "provider_requests",
    "Requests to APIs that generate, by end: answered, limited (429), again (another one worth a second try), refused.",
    "end",
)
PROVIDER_RETRIES = _counter("provider_retries", "Requests to APIs that were second or later tries.")
PROVIDER_SECONDS = _seconds("provider_seconds", "Time of a request to an API that was answered.")
PROVIDER_SPEND = _counter("provider_spend_dollars", "What answers of APIs cost by the config's prices of tokens.")
ALL = (
    SWAP_SECONDS,
    INDEX_SECONDS,
    INDEX_CHUNKS,
    PROVIDER_REQUESTS,
    PROVIDER_RETRIES,
    PROVIDER_SECONDS,
    PROVIDER_SPEND,
)
