"""What the parts of an evaluation ask of each other: who generates, who retrieves, who knows the prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from rapidfireai_worker.layout import Volume

Message = Mapping[str, Any]
"""One chat message: `{"role": ..., "content": ...}`."""
Conversation = Sequence[Message]
"""What is asked at once: chat messages, the last one of which is answered."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one conversation.

    Attributes:
        text: What was generated; None if the row failed.
        error: Why there is no text, as a sentence; None if there is.
        prompt_tokens: Tokens that were read.
        completion_tokens: Tokens that were written.
        seconds: From asking to the answer.
    """

    text: str | None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Site:
    """The worker in which generators are made: `VllmEngines(site)` and `ApiClients(site)` are told no more.

    Attributes:
        volume: The shared volume.
        namespace: The workspace.
        experiment: The experiment's name.
        experiment_uid: The experiment's UID.
        worker: The worker slot's name, which is the holder of leases of a budget.
        volume_url: Where the volume service is; empty if nobody says.
        token: Returns the token of the worker's account for the volume service; it is read anew each time, since
            tokens expire. An empty one means that there is none.
        threads: Compute threads.
        memory_budget: What may be held in memory, on the GPU if there is one, in bytes; 0 if nobody says.
    """

    volume: Volume
    namespace: str = ""
    experiment: str = ""
    experiment_uid: str = ""
    worker: str = ""
    volume_url: str = ""
    token: Callable[[], str] = str
    threads: int = 1
    memory_budget: int = 0


class Generator(Protocol):
    """Answers conversations for one run: a vLLM engine with the run's sampling parameters, or the client of an API."""

    @property
    def in_flight(self) -> int:
        """How many batches should be under way at once, so that it never waits for the next one."""
        ...

    @property
    def answered(self) -> int:
        """How many conversations were answered or given up so far: a batch that takes long is none that hangs."""
        ...

    def submit(self, conversations: Sequence[Conversation]) -> Future[list[Generation]]:
        """Ask for the answers to a batch; returns at once.

        The future has one `Generation` a conversation, in order. It raises `RunFailure` for what no other row would
        escape, such as a wrong key. Cancelling it gives up what is not answered yet.
        """
        ...

    def close(self) -> None:
        """Give up everything that is under way; an engine that others share stays warm."""
        ...


class Generators(Protocol):
    """Makes generators, and keeps what is expensive about them warm from run to run.

    One of each kind lives as long as the worker: `generators.vllm.VllmEngines(site)` for `vllm_config` and
    `generators.api.ApiClients(site)` for `api_config`.
    """

    def generator(self, job_run: str, config: Mapping[str, Any], adapter: str | None) -> Generator:
        """Return the generator of a run.

        Args:
            job_run: The run's name, for messages and accounts.
            config: `vllm_config` or `api_config` of the leaf, its markers resolved.
            adapter: The directory of a LoRA adapter that is evaluated, if there is one.

        Raises:
            RunFailure: If it cannot be made, naming the field and the fix.
        """
        ...

    def used_bytes(self) -> int:
        """Return how much memory is held, on the GPU if there is one."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Rag(Protocol):
    """What `preprocess_fn` gets as `rag`."""

    def get_context(self, batch_queries: list[str], use_reranker: bool = True, serialize: bool = True) -> Any:
        """Return what is found for each query: a text each, or with serialize=False a list of documents each."""
        ...

    def serialize_documents(self, batch_docs: list[list[Any]]) -> list[str]:
        """Return the documents of each query as one text."""
        ...


class PromptManager(Protocol):
    """What `preprocess_fn` gets as `prompt_manager`."""

    def get_instructions(self) -> str:
        """Return the instructions."""
        ...

    def get_fewshot_examples(self, user_queries: list[str]) -> list[str]:
        """Return the examples that suit each query, as one text each; empty texts without examples."""
        ...
