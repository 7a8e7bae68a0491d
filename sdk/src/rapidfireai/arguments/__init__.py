"""What the trainers' and peft's config classes accept, known without importing them."""

from rapidfireai.arguments.table import Argument, ArgumentTable, Kind, coerce, did_you_mean
from rapidfireai.arguments.tables import DPO_CONFIG, GRPO_CONFIG, LORA_CONFIG, SFT_CONFIG, TRAINER_CONFIGS

__all__ = [
    "DPO_CONFIG",
    "GRPO_CONFIG",
    "LORA_CONFIG",
    "SFT_CONFIG",
    "TRAINER_CONFIGS",
    "Argument",
    "ArgumentTable",
    "Kind",
    "coerce",
    "did_you_mean",
]
