"""The parked session: a real trainer whose `train()` runs in a thread of its own and waits between two steps."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from structlog.contextvars import bound_contextvars

from rapidfireai.api.run import PREPARE_CHUNK, Checkpoint
from rapidfireai_worker.causes import training_failure
from rapidfireai_worker.engine import ChunkControl, Discarded, RunFailure
from rapidfireai_worker.fit.ambient import Ambient
from rapidfireai_worker.fit.checkpoint import Restored, Snapshot
from rapidfireai_worker.fit.inheritance import Inheritance, fingerprints, take_over
from rapidfireai_worker.fit.models import Base
from rapidfireai_worker.fit.parkable import Parkable
from rapidfireai_worker.fit.statefile import Frozen
from rapidfireai_worker.measures import SWAP_SECONDS
from rapidfireai_worker.rng import cuda_in_use

_REPORT_SECONDS = 1.0
_WALL_CLOCK = ("runtime", "per_second", "preparation_time", "step_time")
"""In the names of values that say how fast, not how well."""
_MOST_METRICS = 32
_MEASURED_AT_BOUNDARIES = ("chunk/", "boundary/")
_FIRST = ("loss", "learning_rate", "chunk/loss", "boundary/eval_loss")
"""Metrics that are kept if there are too many."""


class _Ended(BaseException):
    """Unwinds a parked trainer's thread; no `except Exception` on the way may keep it."""


class Session:
    """One run, resident in this process.

    Args:
        run: The run's name.
        ambient: The process-wide state that the trainer was built in.
        base: The base that its weights may be shared with.
        private: Whether it shares none.
    """

    def __init__(self, run: str, ambient: Ambient, base: Base, *, private: bool) -> None:
        self.base = base
        self.reference: Base | None = None
        self.private = private
        self.committed: Checkpoint | None = None
        self.step = 0
        self.latest: dict[str, float] = {}
        self.trainer: Parkable
        self._run = run
        self._ambient = ambient
        self._unchanged: dict[int, int] = {}
        self._frozen: dict[str, tuple[str, int]] = {}
        self._inherits = False
        self._bad_log: tuple[int, str] | None = None
        self._thread: threading.Thread | None = None
        self._control = ChunkControl()
        self._target = 0
        self._chunk = 0
        self._evaluates = False
        self._chunk_start: tuple[int, float] = (0, 0.0)
        self._go, self._parked = threading.Event(), threading.Event()
        self._ending = self._ended = False
        self._error: BaseException | None = None

    def adopt(
        self,
        trainer: Parkable,
        copied: Iterable[torch.Tensor],
        restored: Restored | None,
        committed: Checkpoint | None,
        reference: Base | None = None,
    ) -> None:
        """Take the trainer that was built for this session.

        Args:
            trainer: The trainer.
            copied: The tensors of the base's copy that it was given. As long as the version of one stands, it is as
                building left it and no checkpoint has to hold it.
            restored: What the trainer goes on from.
            committed: The checkpoint that this was read from.
            reference: The base of its reference model, if that was loaded by name.
        """
        self.trainer, self.reference = trainer, reference
        if reference is not None:
            reference.users += 1
        self.base.users += 1
        copies = {id(tensor) for tensor in copied}
        tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
        self._unchanged = {id(tensor): tensor._version for tensor in tensors if id(tensor) in copies}
        self._frozen = fingerprints(trainer.model, self.base)
        if restored is not None:
            self.step, self.committed = restored.step, committed
            self._chunk_start = restored.state["chunk_start"]
            self.latest = dict(restored.state["latest"])

    def inherit(self, inheritance: Inheritance) -> None:
        """Begin with the weights of the run's parent, as a warm clone without a commit of its own does.

        Raises:
            RunFailure: If they do not fit.
        """
        made = {name for name, tensor in self._own().items() if self._unchanged.get(id(tensor)) != tensor._version}
        take_over(self.trainer.model, made, self._frozen, inheritance)
        self._inherits = True

    @property
    def stands(self) -> bool:
        """Whether it is where its last commit is: nothing was computed since."""
        return self.step == (0 if self.committed is None else self.committed.step)

    # -- In the engine's thread ----------------------------------------------------------------------------------

    def run_to(self, chunk: int, target: int, control: ChunkControl, *, evaluate: bool) -> Snapshot:
        """Train up to a step and return the state there; earlier if `control.park` is set.

        Args:
            chunk: The chunk's number.
            target: The step at which it ends.
            control: How the chunk is steered and reports.
            evaluate: Whether to evaluate at the target, out of band.

        Raises:
            RunFailure: If training failed.
            Discarded: If `control.discard` was set.
        """
        self._control, self._chunk, self._target, self._evaluates = control, chunk, target, evaluate
        with self._ambient.installed():
            self._parked.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._train, name=f"train {self._run}", daemon=True)
                self._thread.start()
            else:
                self._go.set()
            while not self._parked.wait(_REPORT_SECONDS):
                control.report(self.step, self.metrics(complete=True))
            if self._error is not None:
                if "nan" in str(self._error).lower():
                    self._check_weights()  # what cannot be computed with such weights is their fault
                raise training_failure(self._error, f"training step {self.step + 1}")
            if self.step < target and self._ended:
                message = f"training ended by itself at step {self.step} of {self.trainer.schedule.total_steps}"
                raise RunFailure("TrainingError", f"{message}: something stopped the trainer, such as a callback")
            if control.discard.is_set():
                raise Discarded
            with SWAP_SECONDS.labels("park").time():
                return self._snapshot()

    def metrics(self, *, complete: bool) -> dict[str, float]:
        """Return the latest metrics, as many as a commit may carry.

        Args:
            complete: The chunk was run to its end; otherwise what the last boundary measured is left out.
        """
        names = [name for name in self.latest if complete or not name.startswith(_MEASURED_AT_BOUNDARIES)]
        kept = sorted(names, key=lambda name: (name not in _FIRST, not name.startswith(_MEASURED_AT_BOUNDARIES)))
        return {name: self.latest[name] for name in kept[:_MOST_METRICS]}

    @SWAP_SECONDS.labels("evict").time()
    def close(self) -> None:
        """End the thread and let go of everything."""
        self.base.users -= 1
        if self.reference is not None:
            self.reference.users -= 1
        if self._thread is not None and self._thread.is_alive():
            with self._ambient.installed():
                self._ending = True
                self._go.set()
                self._thread.join()
        del self.trainer
        self._error = None
        gc.collect()
        if cuda_in_use():
            torch.cuda.empty_cache()

    def bytes(self) -> int:
        """Return the memory that leaves with this session: weights that it does not share, and their optimizer's.

        A reference model of its own counts too.
        """
        bases = [base for base in (self.base, self.reference) if base is not None]
        shared = {weight.data_ptr() for base in bases for weight in base.model.parameters()}
        reference = getattr(self.trainer, "ref_model", None)
        # Optimizers keep two values a trained weight; they are counted before there are any.
        copies = {weight.data_ptr(): (weight, 1) for weight in ([] if reference is None else reference.parameters())}
        copies |= {
            weight.data_ptr(): (weight, 3 if weight.requires_grad else 1) for weight in self.trainer.model.parameters()
        }
        own = [each for pointer, each in copies.items() if pointer not in shared]
        return sum(weight.numel() * weight.element_size() * count for weight, count in own)

    def _snapshot(self) -> Snapshot:
        trainer = self.trainer
        self._check_weights()
        self.private = self.private or not self.base.intact(thorough=False)
        own = self._own()
        state = {
            "weights": own,
            "frozen": self._frozen,
            **trainer.memory(),
            "chunk_start": self._chunk_start,
            "latest": self.latest,
            "private": self.private,
        }
        frozen = Frozen.take(state)
        kept = {id(tensor): frozen.tensors[f"state.weights.{name}"] for name, tensor in own.items()}
        return Snapshot(self.step, frozen, trainer.state_file(), _exporter(trainer, kept), trainer.position)

    def _own(self) -> dict[str, torch.Tensor]:
        """Return the tensors that a checkpoint has to hold: what is trained, and what is not as building left it."""
        model = self.trainer.model
        persistent = model.state_dict().keys()
        tensors = [*model.named_parameters(), *model.named_buffers()]
        return {
            name: tensor
            for name, tensor in tensors
            if name in persistent and (tensor.requires_grad or self._unchanged.get(id(tensor)) != tensor._version)
        }

    def _check_weights(self) -> None:
        trained = [weight for weight in self.trainer.model.parameters() if weight.requires_grad]
        if not all(torch.isfinite(weight).all() for weight in trained):
            lost = None if self.trainer.lost_at is None else (self.trainer.lost_at, "the loss")
            step, name = min((each for each in (lost, self._bad_log) if each is not None), default=(0, ""))
            first = f"; {name} was not finite for the first time at step {step}" if name else ""
            raise RunFailure(
                "NonFiniteLoss",
                f"the weights are not finite any more at step {self.step} (learning_rate "
                f"{self.trainer.args.learning_rate}): lower learning_rate, add warmup_steps or lower "
                f"max_grad_norm{first}",
            )

    # -- In the trainer's thread ---------------------------------------------------------------------------------

    def logged(self, index: int, line: Mapping[str, Any]) -> None:
        """Pass a line of the trainer's on."""
        self.step = int(line["step"])
        values = {name: value for name, value in line.items() if name != "step" and isinstance(value, (int, float))}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad and self._bad_log is None:
            self._bad_log = (self.step, bad[0])
        self._control.log("log", index, self.step, values)
        self._note(values)

    def begun(self) -> None:
        """Measure what a warm clone begins with: its curve starts where its parent's stood."""
        if self._inherits and self.step == 0 and self._evaluates:
            values = {**self._evaluated(), "boundary/epoch": 0.0}
            self._control.log("boundary", PREPARE_CHUNK, 0, values)
            self._note(values)

    def step_done(self) -> None:
        """Wait here if the chunk is over; the run's last step goes on to the trainer's own end."""
        self.step = self.trainer.state.global_step
        if self.step == self.trainer.lost_at:
            self._check_weights()  # what cannot be saved any more need not be trained to the chunk's end
        if self.step >= self._target:
            self._conclude()
        over = self.step >= self._target or self._control.park.is_set() or self._control.discard.is_set()
        if over and self.step < self.trainer.schedule.total_steps:
            self._park()

    def _train(self) -> None:
        try:
            with bound_contextvars(run=self._run):
                self.trainer.begin()
        except _Ended:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._ended = True
            self._parked.set()

    def _park(self) -> None:
        self._parked.set()
        self._go.wait()
        self._go.clear()
        if self._ending:
            raise _Ended

    def _conclude(self) -> None:
        """Measure the chunk that ends here, without a trace in the trainer."""
        trainer = self.trainer
        loss_sum = trainer._total_loss_scalar + trainer._tr_loss.item()
        since, before = self._chunk_start
        values = {"chunk/loss": (loss_sum - before) / max(self.step - since, 1)}
        self._chunk_start = (self.step, loss_sum)
        if self._evaluates:
            values |= self._evaluated()
        values["boundary/epoch"] = float(trainer.state.epoch or 0.0)
        self._control.log("boundary", self._chunk, self.step, values)
        self._note(values)

    def _evaluated(self) -> dict[str, float]:
        return {
            f"boundary/{name}": value
            for name, value in self.trainer.evaluate_out_of_band().items()
            if isinstance(value, (int, float)) and not any(words in name for words in _WALL_CLOCK)
        }

    def _note(self, values: Mapping[str, float]) -> None:
        fresh = {name: value for name, value in values.items() if not any(words in name for words in _WALL_CLOCK)}
        self.latest = {**self.latest, **fresh}
        self._control.report(self.step, self.metrics(complete=True))


def _exporter(trainer: Parkable, kept: Mapping[int, torch.Tensor]) -> Callable[[Path], None]:
    """Return what writes the model as it is now, in its ordinary form, whatever is trained meanwhile.

    Args:
        trainer: The trainer.
        kept: Copies of the tensors that training changes, by the id of the original: tied ones have several names.
    """
    model, tokenizer = trainer.model, trainer.processing_class
    live = model.state_dict(keep_vars=True)
    weights = {name: kept.get(id(tensor), tensor.detach()) for name, tensor in live.items()}

    def export(folder: Path) -> None:
        model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)

    return export
