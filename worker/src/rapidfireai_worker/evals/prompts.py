"""What `preprocess_fn` gets as `prompt_manager`: instructions, and the examples that suit a query."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_community.vectorstores import FAISS
from langchain_core.prompts import PromptTemplate

from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.engine import RunFailure, RunJob
from rapidfireai_worker.evals.rag.embedders import SharedEmbeddings, check_class
from rapidfireai_worker.evals.rag.identity import digest_of
from rapidfireai_worker.evals.rag.spec import Embedding
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rows.places import located
from rapidfireai_worker.user_code.bundles import UserCode

QUERY = "user_query"
"""The variable of a template, and the field of an example, that is the query."""
SELECTORS = ("SemanticSimilarityExampleSelector", "MaxMarginalRelevanceExampleSelector")
FIELDS = (
    "instructions",
    "instructions_file_path",
    "examples",
    "embedding_cls",
    "embedding_kwargs",
    "example_selector_cls",
    "example_prompt_template",
    "k",
)
_KEPT = 8
_embedded: OrderedDict[str, FAISS] = OrderedDict()
_guard = threading.Lock()


class Prompts:
    """The prompt manager of one run. It may be asked from several threads at once.

    Args:
        instructions: The instructions.
        shots: Chooses and writes examples; None without any.
    """

    def __init__(self, instructions: str, shots: Shots | None = None) -> None:
        self.instructions = instructions
        self._shots = shots
        self.k = 0 if shots is None else shots.k
        self.examples: list[dict[str, Any]] = [] if shots is None else [dict(each) for each in shots.examples]

    def get_instructions(self) -> str:
        """Return the instructions."""
        return self.instructions

    def get_fewshot_examples(self, user_queries: list[str]) -> list[str]:
        """Return the examples that suit each query, as one text each; empty texts without examples.

        Raises:
            TypeError: If the queries are not a list of texts.
            RunFailure: If the embedder or the selector fails.
        """
        if isinstance(user_queries, str) or not all(isinstance(query, str) for query in user_queries):
            raise TypeError(f"user_queries must be a list of texts, not {user_queries!r}"[:500])
        return [""] * len(user_queries) if self._shots is None else self._shots.written(user_queries)


@dataclass(frozen=True, slots=True)
class Shots:
    """Examples, and what chooses among them.

    Attributes:
        examples: The examples.
        selector: The example selector of LangChain.
        embeddings: What it embeds queries with.
        template: Writes an example.
        k: How many are chosen.
        field: The mapping that holds all this, for messages.
    """

    examples: Sequence[Mapping[str, Any]]
    selector: Any
    embeddings: SharedEmbeddings
    template: Any
    k: int
    field: str

    def written(self, queries: Sequence[str]) -> list[str]:
        """Return the examples for each query, an empty line between two of them."""
        self.embeddings.embed_queries(queries)  # all at once: the selector asks for them one by one
        return [self._for(query) for query in queries]

    def _for(self, query: str) -> str:
        try:
            chosen = self.selector.select_examples({QUERY: query})
            return "\n\n".join(self.template.format(**each) for each in chosen)
        except RunFailure:
            raise
        except Exception as error:
            if is_of_the_machine(error):
                raise
            name = type(self.selector).__name__
            raise RunFailure(
                "InvalidConfig", f"{self.field}.examples: {name} raised {type(error).__name__}: {error}"[:4096]
            ) from error


def prompts_of(
    job: RunJob,
    config: Mapping[str, Any],
    code: UserCode,
    volume: Volume,
    claims: Mapping[str, Path],
    field: str = "prompt_manager",
) -> Prompts:
    """Return the prompt manager of a run.

    Args:
        job: The run.
        config: `prompt_manager` of its leaf, with markers.
        code: The user's code.
        volume: The shared volume.
        claims: Where each claim is mounted.
        field: Where the mapping stands in the config, such as `vllm_config.prompt_manager`.

    Raises:
        RunFailure: If a part is missing or wrong, naming the field, the value and the fix.
    """
    unknown = [name for name in config if name not in FIELDS]
    if unknown:
        raise RunFailure("InvalidConfig", f"{field}.{unknown[0]}: is unknown; there are {', '.join(FIELDS)}")
    config = located(config, field, volume, claims)
    instructions = _instructions(config, field)
    k = _number(config.get("k", 3), f"{field}.k")
    examples = _examples(code.resolve(config.get("examples") or [], job), f"{field}.examples")
    if not examples or k == 0:
        if not instructions:
            raise RunFailure("InvalidConfig", f"{field}.instructions: is missing, and there are no examples either")
        return Prompts(instructions)
    embedding = Embedding.of(config, field, lambda value: code.resolve(value, job), job)
    kind = code.resolve({"example_selector_cls": config.get("example_selector_cls")}, job)["example_selector_cls"]
    template = _template(code.resolve(config.get("example_prompt_template"), job), examples, field)
    embeddings = embedding.made()
    selector = _selector(kind, examples, embedding.key, embeddings, k, field)
    return Prompts(instructions, Shots(examples, selector, embeddings, template, k, field))


def _instructions(config: Mapping[str, Any], field: str) -> str:
    instructions = config.get("instructions") or ""
    if not isinstance(instructions, str):
        raise RunFailure("InvalidConfig", f"{field}.instructions: must be a text, not {instructions!r}")
    path = config.get("instructions_file_path")
    if instructions or not path:
        return instructions
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{field}.instructions_file_path: {path} cannot be read: {error}; name it as pvc://CLAIM/path"
        raise RunFailure("InvalidConfig", message) from error


def _number(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RunFailure("InvalidConfig", f"{field}: must be a whole number, 0 for no examples, not {value!r}")
    return value


def _examples(examples: Any, field: str) -> list[dict[str, Any]]:
    if not isinstance(examples, list) or not all(isinstance(each, Mapping) for each in examples):
        raise RunFailure("InvalidConfig", f"{field}: must be a list of mappings, not {examples!r}"[:4096])
    names = sorted({frozenset(each) for each in examples}, key=sorted)
    if len(names) > 1:
        raise RunFailure(
            "InvalidConfig",
            f"{field}: all must have the same fields; some have {sorted(names[0])}, others {sorted(names[1])}",
        )
    return [dict(each) for each in examples]


def _template(template: Any, examples: Sequence[Mapping[str, Any]], field: str) -> Any:
    where = f"{field}.example_prompt_template"
    if template is None:
        raise RunFailure(
            "InvalidConfig",
            f'{where}: is missing; write how an example reads, as "Question: {{{QUERY}}}\\nAnswer: {{answer}}"',
        )
    if isinstance(template, str):
        try:
            template = PromptTemplate.from_template(template)
        except ValueError as error:
            raise RunFailure("InvalidConfig", f"{where}: {error}") from error
    if isinstance(template, type) or not hasattr(template, "format"):
        raise RunFailure("InvalidConfig", f"{where}: must be a text or a PromptTemplate of LangChain, not {template!r}")
    missing = sorted(set(getattr(template, "input_variables", ())) - set(examples[0]))
    if missing:
        raise RunFailure(
            "InvalidConfig", f"{where}: names {{{missing[0]}}}, and examples have the fields {sorted(examples[0])}"
        )
    return template


def _selector(
    kind: Any, examples: list[dict[str, Any]], key: str, embeddings: SharedEmbeddings, k: int, field: str
) -> Any:
    where = f"{field}.example_selector_cls"
    if kind is None:
        raise RunFailure("InvalidConfig", f"{where}: is missing; name {' or '.join(SELECTORS)} of LangChain")
    if not isinstance(kind, type):
        check_class(kind, where, "k and examples")
    if not any(base.__name__ in SELECTORS for base in kind.__mro__):
        raise RunFailure("InvalidConfig", f"{where}: must be {' or '.join(SELECTORS)}, not {kind.__name__}")
    own = [QUERY] if QUERY in examples[0] else None  # the query is compared with queries, not with answers too
    try:
        return kind(vectorstore=_vectors(examples, own, key, embeddings), k=k, input_keys=own)
    except RunFailure:
        raise
    except Exception as error:
        if is_of_the_machine(error):
            raise
        raise RunFailure("InvalidConfig", f"{where}: {kind.__name__} raised {type(error).__name__}: {error}") from error


def _vectors(examples: list[dict[str, Any]], own: list[str] | None, key: str, embeddings: SharedEmbeddings) -> FAISS:
    """Return the examples embedded, once for all runs that have the same ones."""
    name = digest_of([key, own, [[(field, str(value)) for field, value in sorted(each.items())] for each in examples]])
    with _guard:
        if name not in _embedded:
            texts = [" ".join(str(each[field]) for field in own or sorted(each)) for each in examples]
            _embedded[name] = FAISS.from_texts(texts, embeddings, metadatas=examples)
        _embedded.move_to_end(name)
        while len(_embedded) > _KEPT:
            _embedded.popitem(last=False)
        return _embedded[name]
