"""One vLLM engine: processes of its own, and a thread here whose event loop feeds them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

import psutil
import structlog
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.renderers import ChatParams
from vllm.renderers.chat_utils import ChatTemplateResolutionError, load_chat_template
from vllm.sampling_params import SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.generators.vllm_process import environment, executor_for, root_cause
from rapidfireai_worker.evals.generators.vllm_spec import ADAPTER_FIELD, ENGINE_FIELD, EngineSpec
from rapidfireai_worker.evals.parts import Conversation, Generation
from rapidfireai_worker.failures import MESSAGE_LIMIT, is_out_of_memory

T = TypeVar("T")
_LOOK_SECONDS = 1.0
"""How often a batch looks whether the engine still lives."""
_NO_MEMORY = (
    "memory for the cache blocks",
    "available KV cache memory",
    "desired GPU memory utilization",
    "out of memory",
    "MemoryError",
    "': -9",  # a process that the kernel killed
)
"""How vLLM says that its engine does not fit."""
_NOT_LOADED = "'_OpNamespace' '_C' object has no attribute"
"""How PyTorch says that an operation of vLLM's compiled part is not there: vLLM only warns when it cannot load it."""
_log = structlog.get_logger(__name__)


class Engine:
    """A running engine that answers many batches at once.

    Args:
        spec: What it is.
        variables: Environment variables that its processes get where nobody has set them.

    Attributes:
        asleep: Whether its weights wait in main memory and it can answer nobody.
    """

    def __init__(self, spec: EngineSpec, variables: Mapping[str, str]) -> None:
        self.spec = spec
        self.asleep = False
        self._folder = Path(tempfile.mkdtemp(prefix="vllm-"))
        self._numbers = itertools.count()
        self._under_way: set[Future[list[Generation]]] = set()
        self._others = _children()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        try:
            self._llm = self._soon(self._started(variables)).result()
        except BaseException as error:
            cause = root_cause(self._folder)
            self._end_thread()
            raise start_failure(error, cause) from error
        model = self._llm.model_config
        self._longest: int = model.max_model_len
        self._sleeps = bool(model.enable_sleep_mode)
        self._chat = ChatParams(
            chat_template=load_chat_template(spec.template),
            chat_template_kwargs={"add_generation_prompt": True, "continue_final_message": False, "tokenize": False},
        )

    @property
    def capacity(self) -> int:
        """How many rows it works on at once."""
        return int(self._llm.vllm_config.scheduler_config.max_num_seqs)

    @property
    def dead(self) -> bool:
        """Whether its processes are gone."""
        return bool(self._llm.errored)

    def sampling(self, arguments: Mapping[str, Any]) -> Any:
        """Return sampling parameters; without any, those that the model's authors recommend."""
        defaults = self._llm.model_config.get_diff_sampling_param()
        return SamplingParams(**arguments) if arguments else SamplingParams.from_optional(**defaults)

    def ask(
        self, conversations: Sequence[Conversation], sampling: Any, adapter: Any, answered: Callable[[], None]
    ) -> Future[list[Generation]]:
        """Ask for the answers to a batch; returns at once.

        Args:
            conversations: What is asked.
            sampling: The `SamplingParams` of these requests.
            adapter: The `LoRARequest` of these requests, or None.
            answered: Called in the engine's thread for each row that is answered or given up.
        """
        future = self._soon(self._answers(conversations, sampling, adapter, answered))
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def load(self, adapter: Any) -> None:
        """Load an adapter, to see that the model takes it.

        Raises:
            RunFailure: If it does not.
        """
        try:
            self._soon(self._llm.add_lora(adapter)).result()
        except EngineDeadError as error:
            raise self._died() from error
        except Exception as error:
            raise RunFailure("InvalidConfig", f"{ADAPTER_FIELD}: vLLM refuses {adapter.lora_path}: {error}") from error

    def rest(self) -> bool:
        """Finish what is under way, then give the device free for another engine; return whether it may be woken."""
        wait(list(self._under_way))
        if not self._sleeps or self.dead:
            return False
        self._soon(self._llm.sleep(level=1)).result()
        self.asleep = True
        return True

    def wake(self) -> None:
        """Take the device again."""
        self._soon(self._llm.wake_up()).result()
        self.asleep = False

    def used_bytes(self) -> int:
        """Return the memory that it holds: of the GPU, or of the host where there is none."""
        if current_platform.is_cpu():
            return sum(_resident(process) for process in _children() - self._others)
        if self.asleep:
            return 0
        share = self._llm.vllm_config.cache_config.gpu_memory_utilization
        return int(share * current_platform.get_device_total_memory())

    def close(self) -> None:
        """End its processes and give up what is under way."""
        for future in list(self._under_way):
            future.cancel()
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._soon(self._stop_listening()).result()
        self._llm.shutdown()
        self._end_thread()

    async def _started(self, variables: Mapping[str, str]) -> AsyncLLM:
        with environment(variables, self._folder):
            arguments = _arguments(self.spec)
            config = arguments.create_engine_config(UsageContext.LLM_CLASS)
            return AsyncLLM(
                config,
                executor_for(config),
                log_stats=not arguments.disable_log_stats,
                usage_context=UsageContext.LLM_CLASS,
                log_requests=False,
            )

    async def _answers(
        self, conversations: Sequence[Conversation], sampling: Any, adapter: Any, answered: Callable[[], None]
    ) -> list[Generation]:
        rows = [asyncio.ensure_future(self._answer(each, sampling, adapter)) for each in conversations]
        for row in rows:
            row.add_done_callback(_noticed)
            row.add_done_callback(lambda _: answered())
        waiting = set(rows)
        try:
            while waiting:
                # A request that vLLM sends while its engine dies is never answered, not even with an error.
                _, waiting = await asyncio.wait(waiting, timeout=_LOOK_SECONDS)
                if waiting and self.dead:
                    raise self._died()
            return [row.result() for row in rows]
        finally:
            for row in waiting:
                row.cancel()

    async def _answer(self, conversation: Conversation | str, sampling: Any, adapter: Any) -> Generation:
        began = time.monotonic()
        try:
            prompt = await self._rendered(conversation)
            read = len(prompt["prompt_token_ids"])
            if read >= self._longest:
                return Generation(None, self._too_long(read), prompt_tokens=read)
            async for output in self._llm.generate(prompt, sampling, str(next(self._numbers)), lora_request=adapter):
                last = output
        except ChatTemplateResolutionError as error:
            raise RunFailure(
                "InvalidConfig",
                f"{ENGINE_FIELD}.model: it has no chat template; give {ENGINE_FIELD}.chat_template, take an instruct "
                "model, or let preprocess_fn return texts as prompts",
            ) from error
        except EngineDeadError as error:
            raise self._died() from error
        except EngineGenerateError as error:
            return Generation(None, f"vLLM failed on it: {error.__cause__ or error}", seconds=time.monotonic() - began)
        except VLLMClientError as error:
            return Generation(None, f"vLLM refuses it: {error}", seconds=time.monotonic() - began)
        except Exception as error:  # what a template raises over something that is no conversation
            words = f"{type(error).__name__}: {error}"
            return Generation(None, f"it cannot be made a prompt: {words}", seconds=time.monotonic() - began)
        seconds = time.monotonic() - began
        first = last.outputs[0]
        if first.finish_reason in {"abort", "error"}:
            return Generation(None, f"vLLM gave it up ({first.finish_reason})", prompt_tokens=read, seconds=seconds)
        written = sum(len(each.token_ids) for each in last.outputs)
        return Generation(first.text, None, read, written, seconds)

    async def _rendered(self, conversation: Conversation | str) -> Any:
        """Return a prompt as tokens: a text as `LLM.generate` reads it, messages as `LLM.chat` does."""
        renderer = self._llm.renderer
        if isinstance(conversation, str):
            tokens = renderer.default_cmpl_tok_params
            (prompt,) = await renderer.render_cmpl_async([{"prompt": conversation}], _of_any_length(tokens))
        else:
            tokens = renderer.default_chat_tok_params.with_kwargs(add_special_tokens=False)
            messages = [dict(message) for message in conversation]
            _, (prompt,) = await renderer.render_chat_async([messages], self._chat, _of_any_length(tokens))
        return prompt

    def _too_long(self, tokens: int) -> str:
        return (
            f"the prompt has {tokens} tokens, and with its answer the model takes {self._longest}; shorten it, or "
            f"raise {ENGINE_FIELD}.max_model_len as far as the model goes"
        )

    def _died(self) -> RunFailure:
        """Return the failure of a run whose engine is gone.

        The run pays, as it does for a worker that dies with it: what kills engines is mostly what they were asked.
        """
        cause = root_cause(self._folder) or "its processes ended without a word, as they do if the kernel kills them"
        return RunFailure("EngineDied", f"the vLLM engine died: {cause}; the next try gets a new one"[:MESSAGE_LIMIT])

    async def _stop_listening(self) -> None:
        # Otherwise vLLM's tasks take the end of the processes for a failure and log a traceback.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LOOK_SECONDS)

    def _soon(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop.is_closed():
            work.close()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def check_arguments(spec: EngineSpec, variables: Mapping[str, str]) -> None:
    """Have vLLM check the arguments of an engine that is to be started, so that no other one ends for it in vain.

    Raises:
        RunFailure: If it refuses them, or the model is not there.
    """
    with tempfile.TemporaryDirectory(prefix="vllm-") as folder, environment(variables, Path(folder)):
        try:
            _arguments(spec).create_engine_config(UsageContext.LLM_CLASS)
        except Exception as error:
            raise start_failure(error, None) from error


def _arguments(spec: EngineSpec) -> AsyncEngineArgs:
    # The same defaults as LLM has, so that nothing is slower or answered otherwise here.
    return AsyncEngineArgs(**{"disable_log_stats": True, **spec.engine_arguments()})


def start_failure(error: BaseException, cause: str | None) -> RunFailure:
    """Return why an engine did not start.

    Args:
        error: What vLLM raised here.
        cause: What its processes logged, if they got so far.
    """
    words = cause or f"{type(error).__name__}: {error}"
    if is_out_of_memory(error) or any(each in f"{words} {error}" for each in _NO_MEMORY):
        fix = "take a smaller model, a smaller max_model_len, or leave it more memory"
        return RunFailure(
            "OutOfMemory", f"{ENGINE_FIELD}: the engine does not fit into memory: {words}; {fix}"[:MESSAGE_LIMIT]
        )
    if _NOT_LOADED in f"{words} {error}":
        why = "vLLM's compiled part did not load, most often because libnuma.so.1 is missing (Debian: libnuma1)"
        fix = "install it, or take a worker image that has it; the worker's log says what is missing"
        return RunFailure("EngineFailed", f"{ENGINE_FIELD}: {why}: {words}; {fix}"[:MESSAGE_LIMIT])
    chain = _chain(error)
    if any(isinstance(each, OSError) or type(each).__module__.startswith("huggingface_hub") for each in chain):
        fix = "is the name right, and is a hub reached or the model in HF_HOME?"
        return RunFailure("ModelNotFound", f"{ENGINE_FIELD}.model: {words}; {fix}"[:MESSAGE_LIMIT])
    if cause is None and isinstance(error, (ValueError, TypeError, NotImplementedError, AssertionError)):
        return RunFailure("InvalidConfig", f"{ENGINE_FIELD}: vLLM refuses it: {words}"[:MESSAGE_LIMIT])
    return RunFailure("EngineFailed", f"{ENGINE_FIELD}: the vLLM engine did not start: {words}"[:MESSAGE_LIMIT])


def _noticed(row: asyncio.Future[Generation]) -> None:
    """Look at how a row ended, so that asyncio does not complain that nobody did."""
    if not row.cancelled():
        row.exception()


def _chain(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _of_any_length(params: Any) -> Any:
    """Return how a prompt is tokenised without a limit: a prompt that is too long gets a message of ours."""
    return dataclasses.replace(params, max_total_tokens=None)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
