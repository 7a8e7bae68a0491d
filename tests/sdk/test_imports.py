"""Importing the SDK is quick and pulls in nothing that only workers need."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "kopf", "mlflow", "pandas", "IPython"}


@pytest.mark.parametrize(
    ("words", "also_absent"),
    [
        ("import rapidfireai", {"kubernetes", "rich", "httpx"}),
        ("import rapidfireai.expand", {"kubernetes", "rich", "httpx", "cloudpickle"}),
        ("from rapidfireai.automl import List, RFGridSearch, RFModelConfig, RFLoraConfig, RFSFTConfig", {"kubernetes"}),
        ("from rapidfireai import Experiment", set()),
    ],
)
def test_heavy_packages_are_imported_when_they_are_used(words: str, also_absent: set[str]) -> None:
    script = f"{words}\nimport sys\nprint(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert not (HEAVY | also_absent) & set(answer.stdout.split())


def test_notebooks_find_what_they_import_where_they_know_it() -> None:
    import rapidfireai.automl
    import rapidfireai.fit.automl
    from rapidfireai.errors import BundleError, ConfigError, ExperimentError
    from rapidfireai.fit.utils.exceptions import AutoMLException, ExperimentException, NoGPUsFoundException

    names = rapidfireai.automl.__all__
    assert [getattr(rapidfireai.fit.automl, name) for name in names] == [
        getattr(rapidfireai.automl, name) for name in names
    ]
    for raised in (BundleError("x"), ConfigError("x", "y"), ExperimentError("x"), NoGPUsFoundException("x")):
        assert isinstance(raised, ExperimentException)
    assert issubclass(ConfigError, AutoMLException)
