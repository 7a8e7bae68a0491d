"""Data sets by URI, and their rows in the form that the trainer reads."""

from __future__ import annotations

import glob
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from rapidfireai_worker.causes import is_of_the_machine
from rapidfireai_worker.engine import DataRef, RunFailure
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rng import Rng, untouched_rng
from rapidfireai_worker.rows.places import Files, described, local_files
from rapidfireai_worker.rows.prepared import (
    PreparedSets,
    Sharing,
    is_lasting,
    is_written_out,
    mark_lasting,
    tokenizer_digest,
)
from rapidfireai_worker.rows.remote import SCHEMES, fetched

_TRAINABLE = ({"messages"}, {"prompt", "completion"}, {"text"}, {"input_ids"}, {"conversations"})
"""Columns that TRL trains on as they are."""
_NEEDED = {"DPO": ("chosen", "rejected"), "GRPO": ("prompt",)}
"""Columns without which a trainer of this type cannot train."""
_QUESTIONS = ("question", "instruction")
_ANSWERS = ("answer", "response", "output")
_NO_ROWS = "corresponds to no data"
"""How the datasets library says that a file is empty."""
_CACHED = 16
"""How many data sets are kept open in the process; they are memory-mapped files."""


class DataLibrary:
    """The process's data sets: each is read, formatted and tokenised once for all runs that treat it alike.

    Args:
        volume: The shared volume.
        claims: Where each claim is mounted.
        versions: What preparing rows depends on besides: the versions of Python and of the libraries.
    """

    def __init__(self, volume: Volume, claims: Mapping[str, Path], versions: Mapping[str, Any] | None = None) -> None:
        self._volume = volume
        self._claims = claims
        self._prepared = PreparedSets(volume, versions or {})
        self._cache: OrderedDict[str, Dataset] = OrderedDict()
        self._tokenizers: dict[str, str | None] = {}

    def remember(self, key: str, make: Callable[[], Dataset], *, lasting: bool = False) -> Dataset:
        """Return what `make` returned the last time for `key`, or make it now.

        What was made with random numbers is not kept: the next run has to draw them too.

        Args:
            key: Names what is made.
            make: Makes it.
            lasting: The key names all that it is made of, so that it may be kept on the volume for other workers.
        """
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        made = self._prepared.get(key) if lasting else None
        if made is None:
            before = Rng.capture()
            made = make()
            if not Rng.capture().same(before):
                return made
            if lasting:
                self._prepared.put(key, made)
                made = mark_lasting(made, key)
        self._cache[key] = made
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return made

    def sharing(
        self, base: str, tokenizer: Any, arguments: Mapping[str, Any], rows: Iterable[Dataset | None]
    ) -> Sharing:
        """Return how a run shares the rows that its trainer prepares.

        Args:
            base: The identity of its base.
            tokenizer: Its tokenizer, as it was loaded.
            arguments: Its training arguments.
            rows: The rows that its trainer is given.
        """
        if base not in self._tokenizers:
            self._tokenizers[base] = tokenizer_digest(tokenizer)
        digest = self._tokenizers[base]
        lasting = digest is not None and is_written_out(arguments) and all(map(is_lasting, rows))
        return Sharing(json.dumps([base, digest]), partial(self.remember, lasting=lasting))

    def load(self, ref: DataRef, field: str, experiment_uid: str = "") -> Dataset:
        """Return the rows of a data set as they lie on the disk.

        Args:
            ref: The data set.
            field: The field that names it, for messages.
            experiment_uid: Whose it is: what lies behind a URL is fetched once for each experiment.

        Raises:
            RunFailure: If it does not exist or cannot be read, naming the field, the URI and the fix.
        """
        with untouched_rng():
            if ref.uri.startswith("hf://"):
                return self.remember(f"{ref}", lambda: self._read(_hub_source(ref), ref, field))
            files = self._files(ref.uri, f"{field}.uri", experiment_uid)
            source = {
                "path": files.builder,
                "data_files": [glob.escape(str(path)) for path in files.paths],
                "split": "train",
            }
            return self.remember(files.digest, lambda: mark_lasting(self._read(source, ref, field), files.digest))

    def _files(self, uri: str, field: str, experiment_uid: str) -> Files:
        if uri.partition("://")[0] not in SCHEMES:
            return local_files(uri, field, self._volume, self._claims)
        directory = self._volume.experiments / experiment_uid / "data"
        return described(uri, field, fetched(uri, field, directory))

    def _read(self, source: Mapping[str, Any], ref: DataRef, field: str) -> Dataset:
        try:
            rows = datasets.load_dataset(**source, cache_dir=str(self._volume.models / "datasets"))
        except Exception as error:
            if is_of_the_machine(error):
                raise
            cause = error.__cause__ or error
            if isinstance(cause, StopIteration) or _NO_ROWS in str(cause):
                raise RunFailure("DatasetEmpty", f"{field}.uri: {ref.uri} has no rows") from error
            message = f"{field}.uri: {ref.uri} cannot be read: {type(cause).__name__}: {cause}"
            raise RunFailure("DatasetUnreadable", message[:4096]) from error
        if len(rows) == 0:
            raise RunFailure("DatasetEmpty", f"{field}.uri: {ref.uri} has no rows")
        return rows

    def format(
        self,
        rows: Dataset,
        function: Callable[..., Any] | None,
        identity: str,
        field: str,
        trainer_type: str = "SFT",
        text_field: str = "text",
        *,
        lasting: bool = False,
    ) -> Dataset:
        """Return the rows as the user's function makes them, or in the built-in chat format without one.

        Args:
            rows: What `load` returned.
            function: The user's formatting function: a row in, a row out.
            identity: What names the function: equal identities are the same function.
            field: The field that names the data set, for messages.
            trainer_type: Which trainer reads them.
            text_field: The column that it takes for plain text.
            lasting: The identity names the function's content, so that what it makes may be kept on the volume.

        Raises:
            RunFailure: If the function raises, if a column is missing that the trainer needs, or without a function if
                the columns have no known meaning.
        """
        trainable = any(known <= set(rows.column_names) for known in (*_TRAINABLE, {text_field}))
        if function is None and trainer_type == "SFT" and not trainable:
            return self._built_in(rows, field)
        made = rows if function is None else self._mapped(rows, function, identity, lasting)
        if trainer_type == "SFT" and not any(known <= set(made.column_names) for known in (*_TRAINABLE, {text_field})):
            raise RunFailure(
                "DatasetUnreadable",
                f"{field}: SFT needs rows with messages, prompt and completion, or {text_field}, and these have the "
                f"columns {sorted(made.column_names)}; let formatting_func return them",
            )
        missing = [name for name in _NEEDED.get(trainer_type, ()) if name not in made.column_names]
        if missing:
            raise RunFailure(
                "DatasetUnreadable",
                f"{field}: {trainer_type} needs rows with {' and '.join(missing)}, and these have the columns "
                f"{sorted(made.column_names)}; write a formatting_func that returns them",
            )
        return made

    def _mapped(self, rows: Dataset, function: Callable[..., Any], identity: str, lasting: bool) -> Dataset:
        fingerprint = hashlib.sha256(json.dumps([rows._fingerprint, identity]).encode()).hexdigest()[:32]
        # What the library keeps is not asked: whether the function draws random numbers is part of the run.
        options = {"new_fingerprint": fingerprint, "load_from_cache_file": False}
        return self.remember(fingerprint, lambda: rows.map(function, **options), lasting=lasting and is_lasting(rows))

    def _built_in(self, rows: Dataset, field: str) -> Dataset:
        columns = set(rows.column_names)
        question = next((name for name in _QUESTIONS if name in columns), None)
        answer = next((name for name in _ANSWERS if name in columns), None)
        if question is None or answer is None:
            raise RunFailure(
                "DatasetUnreadable",
                f"{field}: rows have the columns {sorted(columns)}; without a formatting_func they need messages, "
                "prompt and completion, text, question and answer, or instruction (and input) and response or output",
            )
        fields = {"question": question, "answer": answer}
        return self.remember(
            f"{rows._fingerprint}:chat",
            lambda: rows.map(_chat, fn_kwargs=fields, remove_columns=rows.column_names),
            lasting=is_lasting(rows),
        )


def _hub_source(ref: DataRef) -> dict[str, Any]:
    name = ref.uri.removeprefix("hf://").removeprefix("datasets/")
    return {"path": name, "name": ref.config, "revision": ref.revision, "split": ref.split}


def _chat(row: Mapping[str, Any], question: str, answer: str) -> dict[str, Any]:
    """Turn a question and its answer into the two turns of a chat; an `input` beside an instruction follows it."""
    asked = str(row[question])
    if question == "instruction" and row.get("input"):
        asked = f"{asked}\n\n{row['input']}"
    return {
        "prompt": [{"role": "user", "content": asked}],
        "completion": [{"role": "assistant", "content": str(row[answer])}],
    }
