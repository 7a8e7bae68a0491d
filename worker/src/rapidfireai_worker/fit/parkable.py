"""A trainer with a door between two optimizer steps; what it computes is its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from transformers import DefaultFlowCallback, Trainer
from transformers.trainer_callback import CallbackHandler, ExportableState

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.checkpoint import Restored
from rapidfireai_worker.fit.generation import GenerationMetrics
from rapidfireai_worker.fit.schedule import Schedule
from rapidfireai_worker.fit.stream import Position, onward
from rapidfireai_worker.rng import Rng, untouched_rng

_MEMORY = (
    "_tr_loss",
    "_total_loss_scalar",
    "_globalstep_last_logged",
    "_initial_global_step",
    "_initial_num_input_tokens_seen",
    "current_flos",
    "_total_train_tokens",
    "_step",
    "_buffered_inputs",
    "_current_train_step_time",
    "entropy_coef",
    "_last_world_entropy",
    "_entropy_window_stats",
)
"""What trainers keep from step to step in memory only; their own checkpoints lose it."""
_UNSEEN_BY_TOKENISING = frozenset(
    {
        "output_dir",
        "run_name",
        "learning_rate",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "num_train_epochs",
        "max_steps",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "warmup_ratio",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "optim",
        "optim_args",
        "logging_steps",
        "logging_strategy",
        "eval_steps",
        "eval_strategy",
        "save_steps",
        "save_strategy",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "beta",
        "label_smoothing",
        "loss_type",
        "loss_weights",
    }
)
"""Arguments that do not change how rows are prepared; any other argument does, until it is known not to."""

Remember = Callable[[str, Callable[[], Dataset]], Dataset]
"""Returns what was made before under an equal key, or makes it."""


class Watcher(Protocol):
    """Who is told what a trainer does, in the trainer's own thread."""

    def logged(self, index: int, line: Mapping[str, Any]) -> None:
        """Take note of the line that was added to the trainer's history at `index`."""
        ...

    def begun(self) -> None:
        """Take note that everything is in place for the first step, in this process, of what is left."""
        ...

    def step_done(self) -> None:
        """Take note of a finished step, its log, evaluation and save included; return when the next may begin."""
        ...


class Parkable(Trainer):  # type: ignore[misc]
    """Mixed into a trainer: tells a watcher of every step, and goes on from where another one was parked.

    Args:
        watcher: Who is told.
        remember: Shares prepared data sets with runs that prepare them alike.
        identity: Names the base and its tokenizer in the keys of `remember`.
        restored: Where to go on from; None at step 0.
        start: Where in the stream of rows a run without `restored` begins; None at its beginning.
        generation: What to measure of generated texts at each evaluation.
        arguments: The trainer's own.

    Attributes:
        epoch_rng: Where the random generators stood when the epoch began: its order of rows was drawn from there.
        lost_at: The first step, counted from 1, whose loss was not finite; None if there was none since it was built.
        schedule: The run's steps.

    Raises:
        RunFailure: If the rows do not make a single batch.
    """

    epoch_rng: Rng | None = None
    lost_at: int | None = None
    callback_handler: CallbackHandler

    def __init__(
        self,
        *,
        watcher: Watcher,
        remember: Remember,
        identity: str,
        restored: Restored | None,
        start: Position | None = None,
        generation: GenerationMetrics | None = None,
        **arguments: Any,
    ) -> None:
        self._watcher = watcher
        self._remember = remember
        self._identity = identity
        self._restored = restored
        self._generation = generation
        self._recalled = self._began = False
        self._last_step = -1
        self._start: int | None = None
        super().__init__(**arguments)
        if restored is not None:
            self._start = restored.state.get("start")
            self.args.eval_on_start = False  # it was done, at the start
        elif start is not None:
            self._start = start.among(len(self.train_dataset))
        self.args.ignore_data_skip = False
        self.schedule = self._measure()

    def begin(self) -> None:
        """Train from the beginning, or from what was restored."""
        self.train(resume_from_checkpoint=None if self._restored is None else str(self._restored.trainer_folder))

    def _measure(self) -> Schedule:
        """Return the run's steps, by the trainer's own arithmetic."""
        with self._same_loaders(), untouched_rng():
            loader = self.get_train_dataloader()
            if len(loader) == 0:
                raise RunFailure("DatasetTooSmall", f"data.train: {len(self.train_dataset)} rows {self._too_few()}")
            values = self.set_initial_training_values(self.args, loader)
        return Schedule(total_steps=values[-1], steps_per_epoch=values[1])

    def _too_few(self) -> str:
        size = self.args.per_device_train_batch_size
        return (
            f"make no batch of {size}, and dataloader_drop_last leaves smaller ones out; give more rows, or lower "
            "per_device_train_batch_size"
        )

    def training_step(self, *arguments: Any, **more: Any) -> torch.Tensor:
        """Compute the gradients of a batch, and note a loss that is not finite: the log may hide it."""
        loss: torch.Tensor = super().training_step(*arguments, **more)
        if self.lost_at is None and not torch.isfinite(loss).all():
            self.lost_at = self.state.global_step + 1
        return loss

    @contextmanager
    def _same_loaders(self) -> Iterator[None]:
        """Let accelerate forget the data loaders that are made inside."""
        loaders = list(self.accelerator._dataloaders)
        try:
            yield
        finally:
            self.accelerator._dataloaders = loaders

    # Where it stands in the stream of rows.

    def _get_train_sampler(self, *arguments: Any) -> Any:
        sampler = super()._get_train_sampler(*arguments)
        return sampler if self._start is None else onward(sampler, self._start, self.args)

    @property
    def position(self) -> Position:
        """The place in the stream of rows behind those that were drawn; rows that an epoch left out count too."""
        rows = len(self.train_dataset)
        epochs, steps = divmod(self.state.global_step, self.schedule.steps_per_epoch)
        return Position((self._start or 0) + epochs * rows + min(self._drawn(steps), rows), rows)

    def _drawn(self, steps: int) -> int:
        """Return how many rows the first steps of an epoch draw."""
        rows: int = steps * self.args.gradient_accumulation_steps * self._train_batch_size
        return rows

    # What the watcher is told.

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and tell the watcher."""
        super().log(logs, start_time)
        self._watcher.logged(len(self.state.log_history) - 1, self.state.log_history[-1])

    def _maybe_log_save_evaluate(self, *arguments: Any, **more: Any) -> None:
        """Runs after each step, and again after an epoch's last step when the epoch is over."""
        super()._maybe_log_save_evaluate(*arguments, **more)
        step = self.state.global_step
        again, self._last_step = step == self._last_step, step
        epoch_ends = step % self.schedule.steps_per_epoch == 0
        if again == (epoch_ends or self.control.should_training_stop or self.control.should_epoch_stop):
            self._watcher.step_done()

    # Rows that are prepared once for all.

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, *more: Any) -> Dataset:
        relevant = {key: value for key, value in args.to_dict().items() if key not in _UNSEEN_BY_TOKENISING}
        facts = json.dumps([self._identity, dataset._fingerprint, relevant, more], default=repr, sort_keys=True)
        key, prepare = hashlib.sha256(facts.encode()).hexdigest(), super()._prepare_dataset
        prepared = self._remember(key, lambda: prepare(dataset, processing_class, args, *more))
        if len(prepared) == 0:
            raise RunFailure(
                "DatasetEmpty",
                f"training_args.max_length: with {args.max_length} tokens no row has anything left to train on; "
                "write more, or shorten the prompts",
            )
        return prepared

    # What a checkpoint has to hold, and how it is taken up.

    def memory(self) -> dict[str, Any]:
        """Return the state of training that is in no weight: optimizer, schedule, random states, accumulators."""
        scaler = self.accelerator.scaler
        rng, epoch_rng = Rng.capture(), self.epoch_rng
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "rng": vars(rng),
            "epoch_rng": None if epoch_rng is None else vars(epoch_rng),
            "memory": {name: getattr(self, name) for name in _MEMORY if hasattr(self, name)},
            "metrics": getattr(self, "_metrics", None),
            "start": self._start,
        }

    def state_file(self) -> str:
        """Return the text of the trainer's own state file, with its callbacks' states as they are now."""
        exported: dict[str, Any] = {}
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                exported.setdefault(type(callback).__name__, []).append(callback.state())
        callbacks = {name: states if len(states) > 1 else states[0] for name, states in exported.items()}
        state = dataclasses.asdict(self.state) | {"stateful_callbacks": callbacks}
        return json.dumps(state, indent=2, sort_keys=True) + "\n"

    def _run_epoch(self, *arguments: Any, **more: Any) -> None:
        if self._restored is not None and not self._recalled:
            self._recalled = True
            self._recall(self._restored)
        if not self._began:
            self._began = True
            self._watcher.begun()
        self.epoch_rng = Rng.capture()
        super()._run_epoch(*arguments, **more)

    def _recall(self, restored: Restored) -> None:
        """Take up what is kept in memory only, before the first step: `train` has just reset it."""
        for name, value in restored.state["memory"].items():
            setattr(self, name, send_to_device(value, self.args.device))
        for mode, metrics in (restored.state["metrics"] or {}).items():
            self._metrics[mode].clear()
            self._metrics[mode].update(metrics)
        Rng(**restored.state["epoch_rng" if self._inside_epoch(restored) else "rng"]).install()

    def _inside_epoch(self, restored: Restored) -> bool:
        """Return whether the epoch that was begun goes on: its order of rows was drawn at its start."""
        return restored.step % self.schedule.steps_per_epoch != 0

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Take up the weights, and let go of the copy; those that are not in the checkpoint are as they were built."""
        if self._restored is None:
            return
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        with torch.no_grad():
            for name, kept in self._restored.state.pop("weights").items():
                if name not in tensors or tensors[name].shape != kept.shape:
                    raise RunFailure("CheckpointUnreadable", f"the checkpoint's weight {name} does not fit the model")
                tensors[name].copy_(kept)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._restored is not None:
            self.optimizer.load_state_dict(self._restored.state.pop("optimizer"))
            self.lr_scheduler.load_state_dict(self._restored.state["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self._restored is not None and self._restored.state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(self._restored.state["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._restored is not None:
            Rng(**self._restored.state["rng"]).install()

    # Evaluation.

    def evaluation_loop(self, *arguments: Any, **more: Any) -> Any:
        """Evaluate as the trainer does, and measure what the model generates."""
        output = super().evaluation_loop(*arguments, **more)
        if self._generation is not None:
            output.metrics.update(self._generation.measure(self))
        return output

    def evaluate_out_of_band(self) -> dict[str, float]:
        """Evaluate as the trainer would, without a trace: in no log, no callback, no random state, no module's mode.

        Returns:
            The metrics, named as the trainer names them (`eval_loss`, ...).
        """
        modes = [(module, module.training) for module in self.model.modules()]
        handler = self.callback_handler
        metrics = getattr(self, "_metrics", {})
        kept = {name: list(values) for name, values in metrics.get("eval", {}).items()}
        self.callback_handler = CallbackHandler([DefaultFlowCallback()], self.model, None, None, None)
        try:
            with self._same_loaders(), untouched_rng():
                output = self.evaluation_loop(
                    self.get_eval_dataloader(),
                    description="Evaluation",
                    prediction_loss_only=True if self.compute_metrics is None else None,
                )
            measured = {name: values for name, values in metrics.get("eval", {}).items() if name != "num_tokens"}
            known = {name: [each for each in values if not math.isnan(each)] for name, values in measured.items()}
            own = {f"eval_{name}": sum(values) / len(values) for name, values in known.items() if values}
            return {**output.metrics, **own}
        finally:
            self.callback_handler = handler
            if "eval" in metrics:
                metrics["eval"].clear()
                metrics["eval"].update(kept)
            for module, training in modes:
                module.training = training
