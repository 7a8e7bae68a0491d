"""Reward functions of the user's, called with every documented spelling, their answers checked."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.engine import RunFailure

Reward = Callable[..., Any]


def reward_functions(given: Any) -> list[Reward]:
    """Return the reward functions as the trainer calls them.

    Args:
        given: `reward_funcs` of the config, references resolved: a function or a list of functions.

    Raises:
        RunFailure: If there is none, or one is not a function.
    """
    functions = list(given) if isinstance(given, (list, tuple)) else [given]
    if given is None or not functions:
        raise RunFailure("InvalidConfig", "reward_funcs: missing; GRPO needs at least one reward function")
    for function in functions:
        if isinstance(function, str):
            message = f"reward_funcs: {function!r} names a reward model, which is not supported; write a function"
            raise RunFailure("UnsupportedArgument", message)
        if not callable(function):
            raise RunFailure("InvalidConfig", f"reward_funcs: {function!r} is not a function")
        if inspect.iscoroutinefunction(function):
            message = f"reward_funcs: {_name(function)} is asynchronous, which is not supported; write a plain function"
            raise RunFailure("UnsupportedArgument", message)
    return [_reward(function, alone=len(functions) == 1) for function in functions]


def _reward(function: Reward, *, alone: bool) -> Reward:
    name = _name(function)
    guarded = Guarded(function, f"reward function {name}")
    parameters = inspect.signature(function).parameters.values()
    names = {parameter.name for parameter in parameters}
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)

    def reward(*, completions: Sequence[Any], completion_ids: Any, **more: Any) -> list[Any]:
        every = {"completions": completions, "completion_ids": completion_ids, "completions_ids": completion_ids}
        passed = {key: value for key, value in (every | more).items() if takes_all or key in names}
        return _checked(guarded(**passed), name, len(completions), alone=alone)

    if hasattr(function, "__name__"):
        functools.update_wrapper(reward, function)
    else:
        reward.__name__ = name
    return reward


def _checked(rewards: Any, name: str, count: int, *, alone: bool) -> list[Any]:
    if rewards is None or not hasattr(rewards, "__len__"):
        fault = f"returned {type(rewards).__name__}, not a list"
    elif len(rewards) != count:
        fault = f"returned {len(rewards)} rewards for {count} completions"
    elif alone and any(reward is None for reward in rewards):
        fault = "returned None for a completion that no other function scores"
    else:
        return list(rewards)
    raise RunFailure("UserCodeError", f"reward function {name} {fault}; return one number for each completion")


def _name(function: Reward) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)
