"""Answers from an API in OpenAI's style: within its limits, patiently, and without a word about the key."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any, cast

import openai
import structlog
from openai.types.chat import ChatCompletion
from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt, wait_random_exponential

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.generators.api_config import (
    ON_SENT,
    address_of,
    budget_key,
    client_of,
    completion_tokens_of,
    limits_of,
    request_of,
)
from rapidfireai_worker.evals.generators.api_errors import Endpoint, Verdict, secrets_of, verdict, without_keys
from rapidfireai_worker.evals.generators.api_loop import LoopThread
from rapidfireai_worker.evals.generators.api_tokens import Estimator, surely
from rapidfireai_worker.evals.limits import (
    Lessor,
    Limiter,
    LocalLessor,
    TooLarge,
    VolumeLessor,
    lease_url,
)
from rapidfireai_worker.evals.parts import Conversation, Generation, Site
from rapidfireai_worker.measures import PROVIDER_REQUESTS, PROVIDER_RETRIES, PROVIDER_SECONDS, PROVIDER_SPEND
from rapidfireai_worker.volume.budgets import Limits, Terms

CONCURRENCY = 64
"""Requests of one run that a worker has under way at most."""
_CLOSE_SECONDS = 10.0
_MODELS_SHOWN = 10
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How a request is tried again.

    Attributes:
        attempts: Tries altogether.
        first: The pause after the first is random, up to so many seconds; then up to twice as many, and so on.
        longest: The longest pause that is our own choice.
        longest_told: The longest pause that an API may ask for with Retry-After; the row fails if it is longer.
    """

    attempts: int = 6
    first: float = 1.0
    longest: float = 30.0
    longest_told: float = 300.0


class _Refused(Exception):  # noqa: N818 - it is an outcome
    """One try failed."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


class ApiClients:
    """The clients of APIs in a worker: one event loop for all, and one holder of leases for each budget.

    Args:
        site: The worker.
        patience: How requests are tried again; `client_config.max_retries` says the number of tries.
        terms: How a budget is kept that is this process's alone, where there is no volume service.
    """

    def __init__(self, site: Site, patience: Patience | None = None, terms: Terms | None = None) -> None:
        self._site = site
        self._patience = patience or Patience()
        self._terms = terms
        self._loop = LoopThread("api clients")
        self._limiters: dict[tuple[str, Limits], Limiter] = {}
        self._lessors: dict[str, Lessor] = {}
        self._estimators: dict[str, Estimator] = {}
        self._generators: weakref.WeakSet[ApiGenerator] = weakref.WeakSet()
        self._holder = f"{site.worker or 'worker'}-{uuid.uuid4().hex[:8]}"
        for library in ("httpx2", "httpx", "openai"):  # they tell of each request
            logging.getLogger(library).setLevel(logging.WARNING)

    def generator(self, job_run: str, config: Mapping[str, Any], adapter: str | None) -> ApiGenerator:
        """Return the client of a run.

        Raises:
            RunFailure: If the config is of no use, naming the field and the fix.
        """
        if adapter is not None:
            raise RunFailure("InvalidConfig", "adapter: an API serves what it has; evaluate adapters with vllm_config")
        limits = limits_of(config)
        request = request_of(config)
        client_config = dict(config.get("client_config") or {})
        tries = client_config.pop("max_retries", None)
        client = client_of(client_config)
        key = budget_key(str(client.base_url), str(request["model"]))
        generator = ApiGenerator(
            run=job_run,
            loop=self._loop,
            client=client,
            request=request,
            endpoint=Endpoint(
                address_of(str(client.base_url)),
                str(request["model"]),
                tuple(request),
                secrets_of(client_config, client.api_key),
            ),
            limiter=self._limiter(key, limits),
            estimator=self._estimators.setdefault(key, Estimator()),
            patience=self._patience if tries is None else Patience(max(1, int(tries) + 1)),
            prices=(config.get("input_price") or 0.0, config.get("output_price") or 0.0),
        )
        self._generators.add(generator)
        _log.info("asks an API", run=job_run, url=generator.endpoint.url, model=request["model"], budget=key)
        return generator

    def _limiter(self, key: str, limits: Limits) -> Limiter | None:
        """Return who lets requests start; None if nothing is limited."""
        if limits == Limits():
            return None
        if (key, limits) not in self._limiters:
            site = self._site
            if site.volume_url:
                lessor: Lessor = VolumeLessor(lease_url(site.volume_url, site.experiment_uid, key), site.token)
            else:
                lessor = self._lessors.setdefault(key, LocalLessor(self._terms))
            name = f"{self._holder}-{len(self._limiters)}"
            self._limiters[key, limits] = self._loop.run(_made(lessor, limits, name)).result(_CLOSE_SECONDS)
        return self._limiters[key, limits]

    def used_bytes(self) -> int:
        """Return 0: what is held is elsewhere."""
        return 0

    def close(self) -> None:
        """Give back the leases and end the event loop."""
        for generator in list(self._generators):
            generator.close()
        for limiter in self._limiters.values():
            try:
                self._loop.run(limiter.close()).result(_CLOSE_SECONDS)
            except FutureTimeout:
                _log.warning("leases are left to run out")
        self._limiters.clear()
        self._loop.close()


@dataclass(eq=False)
class ApiGenerator:
    """Asks an API for one run.

    Until the API has answered once, one request alone is under way: a wrong key is one refusal, not a thousand.

    Attributes:
        run: The run's name.
        loop: Where it works.
        client: The client.
        request: What every request says, but the messages.
        endpoint: What is asked, for messages.
        limiter: Who lets requests start; None if nothing is limited.
        estimator: Knows how many tokens a prompt may take.
        patience: How requests are tried again.
        prices: What a million tokens cost, read and written.
        answered: How many conversations were answered or given up so far.
    """

    run: str
    loop: LoopThread
    client: openai.AsyncOpenAI
    request: Mapping[str, Any]
    endpoint: Endpoint
    limiter: Limiter | None
    estimator: Estimator
    patience: Patience
    prices: tuple[float, float] = (0.0, 0.0)
    answered: int = 0
    _batch: int = 16
    _failure: RunFailure | None = None
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENCY))
    _first: asyncio.Lock = field(default_factory=asyncio.Lock)
    _reached: bool = False
    _resume_at: float = 0.0
    _futures: set[Future[list[Generation]]] = field(default_factory=set)

    @property
    def in_flight(self) -> int:
        """How many batches make up as many requests as may be under way."""
        return max(2, min(16, -(-CONCURRENCY // self._batch)))

    def submit(self, conversations: Sequence[Conversation]) -> Future[list[Generation]]:
        """Ask for the answers to a batch; returns at once."""
        self._batch = max(1, len(conversations))
        future = self.loop.run(self._answer_all(list(conversations)))
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def close(self) -> None:
        """Give up what is under way."""
        if self.client.is_closed():
            return
        for future in list(self._futures):
            future.cancel()
        try:
            self.loop.run(self.client.close()).result(_CLOSE_SECONDS)
        except FutureTimeout:
            _log.warning("the connections to an API did not close in time", url=self.endpoint.url)

    async def _answer_all(self, conversations: list[Conversation]) -> list[Generation]:
        tasks = [asyncio.create_task(self._answer(each)) for each in conversations]
        for task in tasks:
            task.add_done_callback(self._count)
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    def _count(self, _: asyncio.Task[Generation]) -> None:
        self.answered += 1

    async def _answer(self, conversation: Conversation) -> Generation:
        """Return the answer to one conversation; what failed has an error and no text."""
        async with self._places:
            if not self._reached:
                async with self._first:
                    if not self._reached:
                        generation = await self._insist(conversation)
                        self._reached = True
                        return generation
            return await self._insist(conversation)

    async def _insist(self, conversation: Conversation) -> Generation:
        """Ask until there is an answer, or it is no use."""
        begun = time.monotonic()
        attempts = 0
        try:
            async for attempt in AsyncRetrying(
                retry=_worth_another,
                stop=stop_after_attempt(self.patience.attempts),
                wait=self._pause,
                reraise=True,
            ):
                with attempt:
                    attempts += 1
                    PROVIDER_RETRIES.inc(attempts > 1)
                    return await self._try(conversation)
        except TooLarge as problem:
            return Generation(None, str(problem))
        except _Refused as refused:
            if refused.verdict.outcome == "run":
                self._failure = await self._failure_of(refused.verdict)
                raise self._failure from None
            words = f", tried {attempts} times" if attempts > 1 else ""
            _log.warning("a row failed", run=self.run, error=refused.verdict.message, attempts=attempts)
            return Generation(None, f"{refused.verdict.message}{words}", seconds=time.monotonic() - begun)
        raise AssertionError("a try returns or raises")

    async def _try(self, conversation: Conversation) -> Generation:
        """Ask once."""
        if self._failure is not None:
            raise self._failure
        if (wait := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        answer_tokens = completion_tokens_of(self.request)
        reserved = self.estimator.estimate(conversation) + answer_tokens
        least = surely(conversation) + answer_tokens
        permit = await self.limiter.permit(reserved, least) if self.limiter is not None else None
        used = (
            permit.tokens if permit is not None else reserved
        )  # what is cut off counts as a whole: nobody knows what it took
        ON_SENT.set(permit.sent if permit is not None else None)
        begun = time.monotonic()
        try:
            answer = await self._create(messages=list(conversation))
        except openai.OpenAIError as error:
            judged = verdict(error, self.endpoint)
            end = "again" if judged.outcome == "again" else "refused"
            PROVIDER_REQUESTS.labels("limited" if isinstance(error, openai.RateLimitError) else end).inc()
            if not judged.reached:
                used = 0
            if judged.after is not None and judged.after <= self.patience.longest_told:
                self._resume_at = max(self._resume_at, time.monotonic() + judged.after)
            raise _Refused(judged) from None  # the client's error holds the request, and so the key
        except TypeError as error:
            words = f"api_config.model_config: {without_keys(str(error), self.endpoint.secrets)}; see chat.completions"
            raise _Refused(Verdict("run", words, reason="InvalidConfig")) from None
        else:
            PROVIDER_REQUESTS.labels("answered").inc()
            PROVIDER_SECONDS.observe(time.monotonic() - begun)
            if answer.usage is not None:
                used = answer.usage.total_tokens
                read, written = self.prices
                spent = answer.usage.prompt_tokens * read + answer.usage.completion_tokens * written
                PROVIDER_SPEND.inc(spent / 1e6)
                self.estimator.learn(conversation, answer.usage.prompt_tokens)
            return _generation(answer, time.monotonic() - begun)
        finally:
            if permit is not None:
                permit.settle(used)

    async def _create(self, messages: list[Any]) -> ChatCompletion:
        answer = await self.client.chat.completions.create(**self.request, messages=messages, stream=False)
        return cast("ChatCompletion", answer)

    def _pause(self, state: RetryCallState) -> float:
        """Return how long to wait: as the API says, and a random time more so that not all come at once."""
        error = state.outcome.exception() if state.outcome else None
        own = float(wait_random_exponential(multiplier=self.patience.first, max=self.patience.longest)(state))
        told = error.verdict.after if isinstance(error, _Refused) else None
        if told is None:
            return own
        return told + min(own, self.patience.first) if told <= self.patience.longest_told else 0.0

    async def _failure_of(self, judged: Verdict) -> RunFailure:
        message = judged.message
        if judged.reason == "ModelNotFound":
            message += await self._models()
        return ApiFailure(judged.reason, message)

    async def _models(self) -> str:
        """Return which models the server has, if it says."""
        try:
            page = await self.client.models.list()
        except openai.OpenAIError:
            return ""
        names = sorted(model.id for model in page.data)
        more = f" and {len(names) - _MODELS_SHOWN} more" if len(names) > _MODELS_SHOWN else ""
        return f"; it has {', '.join(names[:_MODELS_SHOWN])}{more}" if names else ""


class ApiFailure(RunFailure):
    """An API refuses the whole run; it would refuse another try too."""

    @property
    def retry(self) -> bool:
        """Nothing changes by itself."""
        return False


def _worth_another(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return isinstance(error, _Refused) and error.verdict.outcome == "again"


async def _made(lessor: Lessor, limits: Limits, name: str) -> Limiter:
    return Limiter(lessor, limits, name)


def _generation(answer: ChatCompletion, seconds: float) -> Generation:
    if not answer.choices:
        return Generation(None, "the API answered without a choice", seconds=seconds)
    usage = answer.usage
    return Generation(
        answer.choices[0].message.content or "",
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        seconds=seconds,
    )
