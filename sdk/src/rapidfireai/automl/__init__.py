"""Knobs, searches and config classes: how many configs are written as one."""

from rapidfireai.automl.configs import (
    ModelConfig,
    RFDPOConfig,
    RFGRPOConfig,
    RFLoraConfig,
    RFModelConfig,
    RFSFTConfig,
)
from rapidfireai.automl.knobs import List, Range
from rapidfireai.automl.search import AutoMLAlgorithm, RFGridSearch, RFRandomSearch, get_runs

__all__ = [
    "AutoMLAlgorithm",
    "List",
    "ModelConfig",
    "RFDPOConfig",
    "RFGRPOConfig",
    "RFGridSearch",
    "RFLoraConfig",
    "RFModelConfig",
    "RFRandomSearch",
    "RFSFTConfig",
    "Range",
    "get_runs",
]
