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
from rapidfireai.automl.pipelines import (
    RFAPIModelConfig,
    RFLangChainRagSpec,
    RFOpenAIAPIModelConfig,
    RFPromptManager,
    RFvLLMModelConfig,
)
from rapidfireai.automl.search import AutoMLAlgorithm, RFGridSearch, RFRandomSearch, get_runs

__all__ = [
    "AutoMLAlgorithm",
    "List",
    "ModelConfig",
    "RFAPIModelConfig",
    "RFDPOConfig",
    "RFGRPOConfig",
    "RFGridSearch",
    "RFLangChainRagSpec",
    "RFLoraConfig",
    "RFModelConfig",
    "RFOpenAIAPIModelConfig",
    "RFPromptManager",
    "RFRandomSearch",
    "RFSFTConfig",
    "RFvLLMModelConfig",
    "Range",
    "get_runs",
]
