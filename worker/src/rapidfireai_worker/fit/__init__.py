"""Fine-tuning: real TRL trainers, parked between two optimizer steps and carried from worker to worker."""

import os

# TRL tells its makers of every trainer that is built, and a worker builds hundreds. Read at the packages' import.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
