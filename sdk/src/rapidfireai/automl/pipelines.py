"""The config classes of evaluations: what answers the rows, what it retrieves, what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from rapidfireai.arguments import did_you_mean
from rapidfireai.automl.knobs import List
from rapidfireai.automl.wire import to_wire
from rapidfireai.config_fields import REF
from rapidfireai.credentials import without_secrets
from rapidfireai.errors import ConfigError
from rapidfireai.evals_checks import Check
from rapidfireai.evals_fields import API, PROMPT_MANAGER, RAG, VLLM

_FILE = "instructions_file_path"


class EvalsConfig:
    """Base of the config classes of evaluations.

    Every field is checked when it is written, and may be a knob or hold knobs. Only what has a value is kept.

    Raises:
        TypeError: If an argument does not exist; the nearest one is suggested.
        ConfigError: If a value is not what the argument takes; what depends on others is checked by the search.
    """

    fields: ClassVar[Mapping[str, Check]] = {}

    def _take(self, given: Mapping[str, Any], unknown: Mapping[str, Any]) -> None:
        """Keep the arguments of a constructor."""
        for name, value in {**given, **unknown}.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.fields:
            raise TypeError(f"{type(self).__name__} has no argument {name}{did_you_mean(name, self.fields)}")
        if value is not None:
            path = f"{type(self).__name__}.{name}"
            self.fields[name](to_wire(value, path, lambda _, where: {REF: {"key": where}}), path)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        said = (f"{name}={_hidden(name, value)!r}" for name, value in self.given().items())
        return f"{type(self).__name__}({', '.join(said)})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, EvalsConfig) and other.given() == self.given()

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def given(self) -> Mapping[str, Any]:
        """Return the arguments that have a value."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def copy(self) -> Self:
        """Return a copy whose arguments can be changed; loaders, splitters and the like are shared, not copied."""
        made = type(self).__new__(type(self))
        vars(made).update({name: _copied(value) for name, value in vars(self).items()})
        return made

    def __deepcopy__(self, _: object) -> Self:
        return self.copy()


class RFvLLMModelConfig(EvalsConfig):
    """A model that vLLM serves in the workers.

    Args:
        model_config: Arguments of vLLM's engine: `model`, `dtype`, `max_model_len`, ...
        sampling_params: Arguments of vLLM's `SamplingParams`.
        rag: What is retrieved: an `RFLangChainRagSpec`.
        prompt_manager: Instructions and examples: an `RFPromptManager`.
        adapter: The run of a fine-tuning experiment whose LoRA adapter is evaluated, such as `sft-r3`.
    """

    fields = VLLM

    def __init__(
        self,
        model_config: Mapping[str, Any] | List | None = None,
        sampling_params: Mapping[str, Any] | List | None = None,
        rag: Any = None,
        prompt_manager: Any = None,
        adapter: str | List | None = None,
        **unknown: Any,
    ) -> None:
        given = {
            "model_config": model_config,
            "sampling_params": sampling_params,
            "rag": rag,
            "prompt_manager": prompt_manager,
            "adapter": adapter,
        }
        self._take(given, unknown)


class RFOpenAIAPIModelConfig(EvalsConfig):
    """A model behind an API that speaks as OpenAI's does.

    Args:
        client_config: Arguments of the client: `base_url`, `api_key`, `timeout`, ... A key that is written here goes
            into a Secret of the experiment and is in no config; without one the workers' `OPENAI_API_KEY` is taken.
        model_config: Arguments of the chat completion: `model`, `temperature`, ...
        rag: What is retrieved: an `RFLangChainRagSpec`.
        prompt_manager: Instructions and examples: an `RFPromptManager`.
        rpm_limit: How many requests a minute all workers together may start.
        tpm_limit: How many tokens a minute all workers together may use.
        max_completion_tokens: How many tokens an answer may have.
        input_price: What a million tokens that are read cost.
        output_price: What a million tokens that are written cost.
    """

    fields = API

    def __init__(  # noqa: PLR0913, PLR0917 - one parameter for each field; unknown is for messages
        self,
        client_config: Mapping[str, Any] | List | None = None,
        model_config: Mapping[str, Any] | List | None = None,
        rag: Any = None,
        prompt_manager: Any = None,
        rpm_limit: int | List | None = None,
        tpm_limit: int | List | None = None,
        max_completion_tokens: int | List | None = None,
        input_price: float | List | None = None,
        output_price: float | List | None = None,
        **unknown: Any,
    ) -> None:
        given = {
            "client_config": client_config,
            "model_config": model_config,
            "rag": rag,
            "prompt_manager": prompt_manager,
            "rpm_limit": rpm_limit,
            "tpm_limit": tpm_limit,
            "max_completion_tokens": max_completion_tokens,
            "input_price": input_price,
            "output_price": output_price,
        }
        self._take(given, unknown)


class RFAPIModelConfig(RFOpenAIAPIModelConfig):
    """A model behind an API, as newer notebooks write it: all that `RFOpenAIAPIModelConfig` takes, and these.

    Args:
        endpoint_config: `{"provider", "api_key", "api_base_url", "endpoint": {"name", "model"}}`: taken apart into
            client_config and model_config. A provider other than openai needs an api_base_url that speaks OpenAI's API.
        itpm_limit: Tokens a minute that are read; with otpm_limit, the two are one limit: their sum.
        otpm_limit: Tokens a minute that are written.
        base_url: The API's address, as in client_config.
        arguments: Those of `RFOpenAIAPIModelConfig`.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any] | List | None = None,
        endpoint_config: Mapping[str, Any] | List | None = None,
        model_config: Mapping[str, Any] | List | None = None,
        *,
        base_url: str | None = None,
        **arguments: Any,
    ) -> None:
        if base_url is not None:
            if isinstance(client_config, List) or "base_url" in (client_config or {}):
                raise ConfigError(
                    "RFAPIModelConfig.base_url", "belongs into client_config, which is given; write it there"
                )
            client_config = {**(client_config or {}), "base_url": base_url}
        limits = {name: arguments.pop(name, None) for name in ("itpm_limit", "otpm_limit")}
        super().__init__(client_config, model_config, **arguments)
        self._take({"endpoint_config": endpoint_config, **limits}, {})


class RFLangChainRagSpec(EvalsConfig):
    """What is retrieved for each question, out of which documents, and how: parts of LangChain.

    Args:
        document_loader: Loads the documents; without one they are the experiment's `documents`.
        text_splitter: Cuts documents into pieces, such as `RecursiveCharacterTextSplitter(...)`.
        embedding_cls: The class of the embedding, such as `HuggingFaceEmbeddings`; never an instance.
        embedding_kwargs: Its arguments.
        retriever: Finds documents by itself; nothing is embedded then.
        vector_store: A vector store; FAISS, which is kept on the volume, if left out.
        search_type: `similarity`, `similarity_score_threshold` or `mmr`.
        search_kwargs: Its arguments: `k` (5), `filter`; `score_threshold` (0.5); `fetch_k` (20), `lambda_mult` (0.5).
            Those of another search have no effect.
        reranker_cls: The class of the reranker, such as `CrossEncoderReranker`.
        reranker_kwargs: Its arguments, such as `top_n`; not more than `k`.
        enable_gpu_search: Search exactly, on a GPU if there is one; otherwise an approximate index is searched.
        document_template: Turns a document into the text that a prompt has.
        newer: `embedding_cfg`, `vector_store_cfg`, `search_cfg`, `reranker_cfg`: dictionaries that say the same.
    """

    fields = RAG

    def __init__(  # noqa: PLR0913, PLR0917 - one parameter for each field
        self,
        document_loader: Any = None,
        text_splitter: Any = None,
        embedding_cls: Any = None,
        embedding_kwargs: Mapping[str, Any] | List | None = None,
        retriever: Any = None,
        vector_store: Any = None,
        search_type: str | List | None = None,
        search_kwargs: Mapping[str, Any] | List | None = None,
        reranker_cls: Any = None,
        reranker_kwargs: Mapping[str, Any] | List | None = None,
        enable_gpu_search: bool | List | None = None,
        document_template: Any = None,
        **newer: Any,
    ) -> None:
        given = {
            "document_loader": document_loader,
            "text_splitter": text_splitter,
            "embedding_cls": embedding_cls,
            "embedding_kwargs": embedding_kwargs,
            "retriever": retriever,
            "vector_store": vector_store,
            "search_type": search_type,
            "search_kwargs": search_kwargs,
            "reranker_cls": reranker_cls,
            "reranker_kwargs": reranker_kwargs,
            "enable_gpu_search": enable_gpu_search,
            "document_template": document_template,
        }
        self._take(given, newer)


class RFPromptManager(EvalsConfig):
    """What a model is told before each question: instructions, and examples that suit the question.

    Args:
        instructions: The instructions. They are enough: examples may be left out.
        instructions_file_path: A file of this machine that has them; it is read at once.
        examples: Mappings with the variables of the template, `user_query` among them.
        embedding_cls: The class of the embedding by which examples are compared; never an instance.
        embedding_kwargs: Its arguments.
        example_selector_cls: `SemanticSimilarityExampleSelector` or `MaxMarginalRelevanceExampleSelector`.
        example_prompt_template: How an example is written: a `PromptTemplate`.
        k: How many examples a prompt gets; 3 if left out.
        newer: `embedding_cfg`, a dictionary with the class and its arguments.
    """

    fields = PROMPT_MANAGER

    def __init__(
        self,
        instructions: str | List | None = None,
        instructions_file_path: str | Path | List | None = None,
        examples: Sequence[Mapping[str, Any]] | List | None = None,
        embedding_cls: Any = None,
        embedding_kwargs: Mapping[str, Any] | List | None = None,
        example_selector_cls: Any = None,
        example_prompt_template: Any = None,
        k: int | List | None = None,
        **newer: Any,
    ) -> None:
        if instructions and instructions_file_path:
            raise ConfigError(f"RFPromptManager.{_FILE}", "stands beside instructions; leave one of them out")
        given = {
            "instructions": instructions or None,
            "instructions_file_path": instructions_file_path or None,
            "examples": examples or None,
            "embedding_cls": embedding_cls,
            "embedding_kwargs": embedding_kwargs,
            "example_selector_cls": example_selector_cls,
            "example_prompt_template": example_prompt_template,
            "k": k,
        }
        self._take({name: value for name, value in given.items() if value is not None}, newer)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == _FILE and value is not None:
            self.instructions = _read(value, f"RFPromptManager.{_FILE}")
        else:
            super().__setattr__(name, value)


def _read(value: Any, path: str) -> Any:
    """Return the text of a file, or a knob of the texts of several."""
    if isinstance(value, List):
        return List([_read(each, f"{path}[{index}]") for index, each in enumerate(value.values)])
    try:
        return Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(path, f"{str(value)!r} cannot be read ({error}); name a text file of this machine") from error


def _copied(value: Any) -> Any:
    """Return a copy of containers and config objects; everything else is shared."""
    if isinstance(value, EvalsConfig):
        return value.copy()
    if isinstance(value, List):
        return List([_copied(each) for each in value.values])
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _hidden(name: str, value: Any) -> Any:
    """Return a value as it is shown: without secrets."""
    if isinstance(value, List):
        return List([_hidden(name, each) for each in value.values])
    if isinstance(value, Mapping):
        return {key: _hidden(str(key), each) for key, each in value.items()}
    return without_secrets({name: value})[name] if isinstance(value, str | list | tuple) else value


SECTION_OF: Mapping[type[EvalsConfig], str] = {RFvLLMModelConfig: "vllm_config", RFOpenAIAPIModelConfig: "api_config"}
"""Which section of a config each class is."""


def section_of(value: object) -> str | None:
    """Return the section that a config object is, or None for anything else."""
    return next((section for kind, section in SECTION_OF.items() if isinstance(value, kind)), None)
