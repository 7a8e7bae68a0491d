"""The program that a run is: what a user would write with TRL, up to `trainer.train()`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PrinterCallback, set_seed

from rapidfireai.expand import ConfigError, restore
from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.engine import RunFailure, RunJob
from rapidfireai_worker.fit.ambient import Ambient
from rapidfireai_worker.fit.arguments import seed_of, training_arguments
from rapidfireai_worker.fit.checkpoint import Restored, read_checkpoint
from rapidfireai_worker.fit.generation import generation_metrics
from rapidfireai_worker.fit.inheritance import Inheritance, inheritance_of
from rapidfireai_worker.fit.models import Base, BaseCache, Loader, checked_pair, complete, load_by_name
from rapidfireai_worker.fit.rewards import reward_functions
from rapidfireai_worker.fit.session import Session
from rapidfireai_worker.fit.stream import Position
from rapidfireai_worker.fit.trainers import TRAINERS
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rows.library import DataLibrary
from rapidfireai_worker.rows.places import resolve_path
from rapidfireai_worker.user_code.bundles import UserCode, names_content

_BEGIN_AS_NOTHING = (True, "gaussian", "eva", "mica")
"""Ways to begin with an adapter that adds nothing to the base, and leaves it as it is."""
TRAINER_FOLDER = "trainer"
"""Folder in the run's directory for what the user's save strategy writes."""


class Builder:
    """Builds sessions; what runs have in common (code, bases, data sets) is loaded once.

    Args:
        volume: The shared volume.
        claims: Where each claim is mounted.
        facts: What bit-identity depends on in this process, from `environment`.
    """

    def __init__(self, volume: Volume, claims: Mapping[str, Path], facts: Mapping[str, Any]) -> None:
        self._facts = facts
        self._volume = volume
        self._claims = claims
        self._code = UserCode(volume)
        self._data = DataLibrary(volume, claims, {name: facts.get(name) for name in ("python", "libraries")})
        self._bases = BaseCache(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def build(self, job: RunJob) -> tuple[Session, Base | None]:
        """Return the run's session, standing at its last commit; and the base that building it spoiled, if it did.

        Whatever shares a spoiled base computes with wrong weights: the caller evicts it.

        Raises:
            RunFailure: If it cannot be built, naming the field and the fix.
        """
        self._code.load(job)  # what its import changes for the whole process holds for every session
        restored = None if job.checkpoint is None else read_checkpoint(self._volume, job.checkpoint, self._facts)
        _check_same_code(job, restored)
        inheritance = inheritance_of(job, self._volume, self._facts)
        private = (restored is not None and bool(restored.state["private"])) or (
            inheritance is not None and inheritance.private
        )
        session = self._assemble(job, restored, inheritance, private=private)
        if session.private or session.base.intact(thorough=True):
            return session, None
        spoiled = session.base
        session.close()
        self.forget(spoiled)
        return self._assemble(job, restored, inheritance, private=True), spoiled

    def loaded(self) -> list[Base]:
        """Return the bases in memory."""
        return self._bases.loaded()

    def forget(self, base: Base) -> None:
        """Load a base anew when it is needed next: it was changed, or it is in the way."""
        self._bases.forget(base)

    def _assemble(
        self, job: RunJob, restored: Restored | None, inheritance: Inheritance | None, *, private: bool
    ) -> Session:
        ambient = Ambient()
        with ambient.installed():
            start = None if inheritance is None else inheritance.position
            session = self._follow(job, restored, start, ambient, private=private)
            if inheritance is not None:
                session.inherit(inheritance)
            return session

    def _follow(
        self, job: RunJob, restored: Restored | None, start: Position | None, ambient: Ambient, *, private: bool
    ) -> Session:
        raw = _restored_types(job.config)
        config = self._located(complete(self._code.resolve(raw, job)))
        output_dir = job.directory(self._volume).root / TRAINER_FOLDER
        _remove_future_checkpoints(output_dir, 0 if restored is None else restored.step)
        seed = seed_of(config, job.seed)
        set_seed(seed)
        make, make_arguments = TRAINERS[_trainer_type(config)]
        args = training_arguments(make_arguments, config, job.seed, output_dir)
        base = self._bases.get(raw, config, seed, _loading_code(job), self._loader(job))
        reference = self._reference(job, raw, config, seed)
        train, evals = self._rows(job, config)
        own = {**self._own_arguments(config, base, reference, private=private), **_metrics(config, evals)}
        set_seed(seed)
        adapter = _adapter(config)
        model, tokenizer = base.copy(share_all=adapter is not None, private=private)
        copied = [*model.parameters(), *model.buffers()]
        sharing = self._data.sharing(base.identity, tokenizer, args.to_dict(), (train, evals))
        session = Session(job.run, ambient, base, private=private)
        trainer = make(
            watcher=session,
            remember=sharing.remember,
            identity=sharing.identity,
            restored=restored,
            start=start,
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=evals,
            processing_class=tokenizer,
            peft_config=adapter,
            **own,
        )
        trainer.remove_callback(PrinterCallback)
        session.adopt(trainer, copied, restored, job.checkpoint, reference)
        return session

    def _reference(self, job: RunJob, raw: Mapping[str, Any], config: Mapping[str, Any], seed: int) -> Base | None:
        """Return the base of a reference model that has a name of its own."""
        given = raw.get("ref_model_config")
        if not given:
            return None
        resolved = complete(config["ref_model_config"])
        if isinstance(resolved.get("model_name"), str):
            resolved["model_name"] = self._locate(resolved["model_name"], "ref_model_config.model_name")
        return self._bases.get(given, resolved, seed, None, load_by_name)

    def _own_arguments(
        self, config: Mapping[str, Any], base: Base, reference: Base | None, *, private: bool
    ) -> dict[str, Any]:
        """Return the arguments that only trainers of the config's type take."""
        trainer_type, compat = _trainer_type(config), config.get("compat") or {}
        longest = {"longest_prompt": _length(compat, "max_prompt_length")}
        if trainer_type == "GRPO":
            return {**longest, "reward_funcs": reward_functions(config.get("reward_funcs"))}
        if trainer_type == "SFT":
            return {}
        _check_adapter_names(compat, config.get("peft_params") or {})
        source = base if reference is None and compat.get("force_use_ref_model") else reference
        return {
            **longest,
            "longest_completion": _length(compat, "max_completion_length"),
            "ref_model": None if source is None else source.copy(share_all=True, private=private)[0],
        }

    def _located(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config with paths in place of `pvc://` names of models."""
        names = {name: config[name] for name in ("model_name", "tokenizer") if isinstance(config.get(name), str)}
        return {**config, **{name: self._locate(value, name) for name, value in names.items()}}

    def _locate(self, name: str, field: str) -> str:
        if not name.startswith("pvc://"):
            return name
        return str(resolve_path(name, field, self._volume, self._claims, missing="ModelNotFound"))

    def _loader(self, job: RunJob) -> Loader:
        function = self._code.create_model(job)
        if function is None:
            return load_by_name
        create = Guarded(function, "create_model_fn")

        def load(config: dict[str, Any]) -> tuple[Any, Any]:
            return checked_pair(create(config))

        return load

    def _rows(self, job: RunJob, config: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the rows to train and to evaluate on, formatted."""
        raw = (job.config.get("additional_kwargs") or {}).get("formatting_func")
        function = (config.get("additional_kwargs") or {}).get("formatting_func")
        format_row = None if function is None else _returning_rows(Guarded(function, "formatting_func"))
        identity = json.dumps([job.code, raw], sort_keys=True, default=repr)
        sources = {"data.train": job.train, "data.eval": job.eval}
        kind = _trainer_type(config), str((config.get("training_args") or {}).get("dataset_text_field", "text"))
        loaded = {
            field: None if ref is None else self._data.load(ref, field, job.experiment_uid)
            for field, ref in sources.items()
        }
        train, evals = (
            None
            if rows is None
            else self._data.format(rows, format_row, identity, field, *kind, lasting=names_content(raw))
            for field, rows in loaded.items()
        )
        return train, evals


def _returning_rows(function: Guarded) -> Callable[..., Any]:
    def format_row(row: Mapping[str, Any]) -> Any:
        made = function(row)
        if not isinstance(made, Mapping):
            message = f"formatting_func returned {type(made).__name__}, not a row; return a dict of columns"
            raise RunFailure("UserCodeError", message)
        return made

    return format_row


def _loading_code(job: RunJob) -> str | None:
    """Return what names the code that loads the model."""
    return job.code if job.create_model is None else f"{job.code} {job.create_model}"


def _check_same_code(job: RunJob, restored: Restored | None) -> None:
    """Check that a run goes on with the code that it began with: the content of a ConfigMap may change."""
    if restored is not None and restored.code is not None and restored.code != job.code:
        raise RunFailure(
            "CodeChanged",
            f"{job.source_name} changed since the run began (sha256 {str(restored.code)[:12]} then, "
            f"{str(job.code)[:12]} now); put the old content back, or make a new experiment",
        )


def _restored_types(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with the types that it had before its journey through JSON, where 1.0 became 1."""
    _trainer_type(config)  # an unknown one is said by its own sentence
    try:
        return restore(config)
    except ConfigError as error:
        raise RunFailure("InvalidConfig", str(error)) from error


def _trainer_type(config: Mapping[str, Any]) -> str:
    name = str(config.get("trainer_type", "SFT"))
    if name not in TRAINERS:
        raise RunFailure("InvalidConfig", f"trainer: {name!r} is unknown; write {', '.join(TRAINERS)}")
    return name


def _metrics(config: Mapping[str, Any], evals: Any) -> dict[str, Any]:
    """Return the arguments that say what is measured at evaluations: of logits, or of what the model generates."""
    additional = config.get("additional_kwargs") or {}
    function = additional.get("compute_metrics")
    compute = None if function is None else Guarded(function, "compute_metrics")
    generation = generation_metrics(additional.get("generation_config"), compute, evals)
    if generation is not None:
        return {"generation": generation}
    if compute is None:
        return {}
    if _trainer_type(config) == "GRPO":
        message = "compute_metrics: GRPO has no logits to give it; add a generation_config, and it gets generated texts"
        raise RunFailure("UnsupportedArgument", message)
    return {"compute_metrics": compute}


def _check_adapter_names(compat: Mapping[str, Any], adapter: Mapping[str, Any]) -> None:
    """Check that a reference adapter, a copy of the first weights, would be the base without any."""
    for name in ("model_adapter_name", "ref_adapter_name"):
        if compat.get(name) is None:
            continue
        if not adapter:
            message = f"training_args.{name}: there is no adapter to name; write a peft_config or leave it out"
            raise RunFailure("UnsupportedArgument", message)
        initial = adapter.get("init_lora_weights", True)
        if initial not in _BEGIN_AS_NOTHING:
            raise RunFailure(
                "UnsupportedArgument",
                f"training_args.{name}: with init_lora_weights {initial!r} the base without the adapter is not the "
                "model as training begins; write force_use_ref_model: true instead, and the reference is the base as "
                "it was loaded",
            )


def _length(compat: Mapping[str, Any], name: str) -> int | None:
    value = compat.get(name)
    if value is not None and (not isinstance(value, int) or value < 1):
        raise RunFailure("InvalidConfig", f"training_args.{name}: must be a whole number from 1 up, not {value!r}")
    return value


def _remove_future_checkpoints(output_dir: Path, step: int) -> None:
    """Remove what the user's save strategy wrote after the last commit: it is written again."""
    for folder in output_dir.glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if number.isdigit() and int(number) > step:
            shutil.rmtree(folder)


def _adapter(config: Mapping[str, Any]) -> LoraConfig | None:
    """Return the adapter to train, or None for full fine-tuning."""
    given = dict(config.get("peft_params") or {})
    if not given:
        return None
    initial = str(given.get("init_lora_weights"))
    if initial.startswith("pissa_niter"):
        why = "is drawn at random, anew whenever the exported adapter is loaded, which gives another model; write pissa"
        raise RunFailure("UnsupportedArgument", f"peft_params.init_lora_weights: {initial} {why}")
    if initial == "loftq" and not torch.cuda.is_available():
        why = "needs a GPU, and this worker has none; write pissa or true"
        raise RunFailure("UnsupportedArgument", f"peft_params.init_lora_weights: {initial} {why}")
    try:
        return LoraConfig(**({"task_type": "CAUSAL_LM"} | given))
    except (TypeError, ValueError) as error:
        raise RunFailure("InvalidConfig", f"peft_params: {error}") from error
