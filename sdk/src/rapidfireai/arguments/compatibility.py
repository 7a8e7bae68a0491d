"""Arguments that documented programs give and the installed TRL no longer has: what each means, and who sees to it.

An argument is taken from here only if the installed class has none of that name, so an upgrade that brings one back
needs no change. `expand` moves the values out of `training_args` into the leaf's `compat`; the worker gives them their
meaning.
"""

from __future__ import annotations

from collections.abc import Mapping

from rapidfireai.arguments.table import Argument, Former, Kind, Renamed

_MAX_PROMPT_LENGTH = Former(
    Argument(("int", "null")),
    meaning="A prompt keeps its last so many tokens; null keeps all of it.",
    equals="the same trainer on rows whose prompts were cut to their last so many tokens before",
)
DPO_FORMER: Mapping[str, Former] = {
    "model_adapter_name": Former(
        Argument(("str", "null")),
        meaning='The name of the adapter that is trained; "default" if it is not given.',
        equals="the same training, the adapter made by get_peft_model(model, config, adapter_name=...)",
    ),
    "ref_adapter_name": Former(
        Argument(("str", "null")),
        meaning='The name of the second adapter that holds the reference, the first weights; "reference" if not given.',
        equals="the same training against a frozen copy of the adapter's first weights",
    ),
    "force_use_ref_model": Former(
        Argument(("bool",)),
        meaning="With an adapter too, the reference is a model of its own: ref_model_name, else the model as it began.",
        equals="DPOTrainer(model, ref_model=...) with that model",
    ),
    "max_prompt_length": _MAX_PROMPT_LENGTH,
    "max_completion_length": Former(
        Argument(("int", "null")),
        meaning="A completion keeps its first so many tokens; null keeps all of it.",
        equals="the same trainer on rows whose completions were cut to their first so many tokens before",
    ),
}
GRPO_FORMER: Mapping[str, Former] = {"max_prompt_length": _MAX_PROMPT_LENGTH}
SFT_FORMER: Mapping[str, Former] = {}

TRAINER_RENAMED: Mapping[str, Renamed] = {
    # Below 1, warmup_steps is a share of all steps, rounded up as the ratio was.
    "warmup_ratio": Renamed("warmup_steps", Argument(("float",), below=1.0)),
    "evaluation_strategy": Renamed("eval_strategy"),
    "no_cuda": Renamed("use_cpu"),
    "per_gpu_train_batch_size": Renamed("per_device_train_batch_size"),
}
"""Earlier names in every trainer's arguments."""
LENGTH_RENAMED: Mapping[str, Renamed] = {**TRAINER_RENAMED, "max_seq_length": Renamed("max_length")}
"""Earlier names where rows have one length: with GRPO a prompt and a completion have one each."""

ALSO_ACCEPTED: Mapping[str, Mapping[str, Kind]] = {
    "DPOConfig": {"loss_type": "str"},
    "GRPOConfig": {"scale_rewards": "bool"},
}
"""What TRL takes beyond its annotations: one loss for a list of one, true for `group` and false for `none`."""
