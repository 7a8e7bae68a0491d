"""Fine-tuning: real TRL trainers, parked between two optimizer steps and carried from worker to worker."""

import os

# TRL tells its makers of every trainer that is built, and a worker builds hundreds. Read at the packages' import.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from trl import import_utils

# Where vLLM is installed, for evaluations, TRL would import all of it with every trainer, and no trainer here uses it.
import_utils.is_vllm_available = lambda min_version=None: False
