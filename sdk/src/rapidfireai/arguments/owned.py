"""Arguments of trainers that this system decides itself, and names that moved: what to write instead."""

from __future__ import annotations

from collections.abc import Mapping

TRAINER_OWNED: Mapping[str, str] = {
    "output_dir": (
        "is chosen for you: checkpoints go to the run's own directory on the volume; leave it out, and use "
        "export(run_id, directory) to get the model"
    ),
    "report_to": "is chosen for you: every metric goes to the run's log and to MLflow; leave it out",
    "resume_from_checkpoint": "is chosen for you: a run goes on from its last committed chunk; leave it out",
    "push_to_hub": "workers do not push; use export(run_id, directory) and push that directory",
    "hub_token": "is a secret and has no place in a config; workers do not push; leave it out",
    "local_rank": "is set by the worker; leave it out",
    "fsdp": "one run uses one device; leave it out",
    "fsdp_config": "one run uses one device; leave it out",
    "deepspeed": "one run uses one device; leave it out",
    "parallelism_config": "one run uses one device; leave it out",
    "auto_find_batch_size": (
        "would restart the training loop in the middle of a chunk; leave it out and set "
        "per_device_train_batch_size and gradient_accumulation_steps"
    ),
}
"""Arguments of training_args that a user may not set, with a sentence that says what to do instead."""

TRAINER_IGNORABLE = frozenset({"output_dir", "logging_dir", "report_to", "local_rank", "overwrite_output_dir"})
"""What notebooks written for one process often carry and can lose without a change of the result."""

TRAINER_MOVED: Mapping[str, str] = {
    "logging_dir": "metrics go to the run's log and to MLflow; leave it out",
    "overwrite_output_dir": "every run has its own directory on the volume; leave it out",
    "group_by_length": "write train_sampling_strategy: group_by_length",
    "tokenizer": "write tokenizer next to model_name, not among the training arguments",
    "formatting_func": "write formatting_func next to model_name, not among the training arguments",
    "compute_metrics": "write compute_metrics next to model_name, not among the training arguments",
    "peft_config": "write peft_config next to model_name, not among the training arguments",
}
"""Names that earlier versions of the libraries used, or that belong elsewhere."""

DPO_MOVED: Mapping[str, str] = {
    **TRAINER_MOVED,
    "rpo_alpha": "write loss_type: [sigmoid, sft] and loss_weights: [1.0, <rpo_alpha>]",
    "reference_free": "is gone from TRL; leave it out",
    "ref_model_init_kwargs": "write ref_model_kwargs next to ref_model_name, not among the training arguments",
    "ref_model_name": "write ref_model_name next to model_name, not among the training arguments",
    "label_pad_token_id": "the trainer chooses it; leave it out",
    "padding_value": "the trainer chooses it; leave it out",
    "is_encoder_decoder": "the trainer sees it by the model; leave it out",
    "generate_during_eval": "write generation_config and compute_metrics next to model_name",
}
GRPO_OWNED: Mapping[str, str] = {
    **TRAINER_OWNED,
    "log_completions_hub_repo": "workers do not push; leave it out",
}
GRPO_MOVED: Mapping[str, str] = {
    **TRAINER_MOVED,
    "max_seq_length": "write max_completion_length",
    "max_length": "write max_completion_length",
    "reward_funcs": "write reward_funcs next to model_name, not among the training arguments",
    "generation_config": "write generation_config next to model_name, not among the training arguments",
}

TRAINER_SYNONYMS: Mapping[str, Mapping[str, str]] = {"save_strategy": {"chunk": "no", "shard": "no"}}
"""Values with a meaning of our own: every chunk is saved anyway, so the trainer need not save as well."""

LORA_OWNED: Mapping[str, str] = {
    "inference_mode": "would freeze the adapter; leave it out",
    "peft_version": "is written by peft itself; leave it out",
    "peft_type": "is LORA; leave it out",
}
LORA_MOVED: Mapping[str, str] = {
    "rank": "write r",
    "alpha": "write lora_alpha",
    "dropout": "write lora_dropout",
}
LORA_SYNONYMS: Mapping[str, Mapping[str, str]] = {}
