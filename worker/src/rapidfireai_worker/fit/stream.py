"""Where a run stands in the stream of rows, and how a warm clone goes on from there.

The stream is what a trainer's sampler yields epoch by epoch, for ever. A run begins at its beginning, a warm clone
behind the rows that its parent had drawn. Each of the clone's epochs is as many rows as there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import RandomSampler, Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler
from trl.trainer.utils import RepeatSampler

from rapidfireai_worker.engine import RunFailure


class Position(NamedTuple):
    """A place in the stream.

    Attributes:
        row: How many rows come before it.
        epoch: How many rows an epoch has.
    """

    row: int
    epoch: int

    def among(self, rows: int) -> int:
        """Return the row at the same place of a stream whose epochs have `rows` rows.

        Rows may be prepared in another number: packed otherwise, or too long for another `max_length`.
        """
        epochs, row = divmod(self.row, self.epoch)
        return epochs * rows + row * rows // self.epoch


class Onward(Sampler[int]):
    """What another sampler yields, from some row of its stream on.

    Args:
        sampler: Yields an epoch's rows in each of its iterations.
        start: The first row.
        seed: Epoch `e` of a sampler that draws from torch's random numbers is drawn from `seed + e`.
    """

    def __init__(self, sampler: Sampler[int], start: int, seed: int) -> None:
        self._sampler = sampler
        self._start = start
        self._seed = seed
        self._epoch = 0
        self._rows = self._count()

    def set_epoch(self, epoch: int) -> None:
        """Choose which of the run's own epochs is yielded next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        skipped, inside = divmod(self._start, self._rows)
        first = skipped + self._epoch
        window = self._order(first)[inside:]
        if inside:
            window = [*window, *self._order(first + 1)[:inside]]
        return iter(self._arranged(window))

    def _count(self) -> int:
        """Return how many rows an epoch of the stream has."""
        return len(self)

    def _order(self, epoch: int) -> Sequence[int]:
        """Return the rows of an epoch of the stream."""
        if isinstance(self._sampler, SeedableRandomSampler):
            self._sampler.set_epoch(epoch)
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(self._seed + epoch)  # the GPUs' own stay as they are
            return list(self._sampler)

    def _arranged(self, window: Sequence[int]) -> Sequence[int]:
        """Return the rows of an epoch as they are yielded."""
        return window


class OnwardGroups(Onward):
    """The same for GRPO's sampler: the stream is one of prompts, each yielded as often as it is used."""

    _sampler: RepeatSampler

    def _count(self) -> int:
        return int(self._sampler.num_samples)

    def _order(self, epoch: int) -> Sequence[int]:
        count = self._rows
        if not self._sampler.shuffle:
            return range(count)
        generator = torch.Generator().manual_seed(self._seed)  # drawn from on and on, epoch by epoch
        for _ in range(epoch):
            torch.randperm(count, generator=generator)
        order: list[int] = torch.randperm(count, generator=generator).tolist()
        return order

    def _arranged(self, window: Sequence[int]) -> Sequence[int]:
        sampler = self._sampler
        places = RepeatSampler(
            window, sampler.mini_repeat_count, sampler.batch_size, sampler.repeat_count, shuffle=False
        )
        return [window[place] for place in places]


def onward(sampler: Any, start: int, args: Any) -> Sampler[int]:
    """Return a trainer's sampler, from some row of its stream on.

    Args:
        sampler: As the trainer makes it; accelerate has not prepared it yet.
        start: The first row.
        args: The trainer's arguments.

    Raises:
        RunFailure: If its order cannot be taken up inside an epoch.
    """
    if isinstance(sampler, BatchRebalanceSampler):
        raise RunFailure(
            "UnsupportedArgument",
            "training_args.train_sampling_strategy: batch_rebalance yields batches, and a warm clone goes on from a "
            "row; write random, or clone without warmStart",
        )
    if isinstance(sampler, RepeatSampler):
        return OnwardGroups(sampler, start, args.seed)
    if type(sampler) is RandomSampler and args.accelerator_config.use_seedable_sampler:
        # What accelerate would put in its place if it were the trainer's own.
        sampler = SeedableRandomSampler(sampler.data_source, data_seed=args.data_seed)
    return Onward(sampler, start, torch.random.initial_seed())
