"""Why an engine did not start, in words that name the cause; nothing is started."""

from __future__ import annotations

import pytest
import torch

pytestmark = [pytest.mark.ml, pytest.mark.xdist_group("vllm")]


@pytest.mark.parametrize("logged", [True, False], ids=["in its processes", "here"])
def test_a_compiled_part_that_did_not_load_is_told_of(logged: bool) -> None:
    from rapidfireai_worker.evals.generators.vllm_engine import start_failure

    with pytest.raises(AttributeError) as missing:
        _ = torch.ops._C.no_such_operation
    words = f"AttributeError: {missing.value}"
    error = RuntimeError("Engine core initialization failed. See root cause above.") if logged else missing.value
    failure = start_failure(error, words if logged else None)
    assert failure.reason == "EngineFailed"
    assert "vLLM's compiled part did not load, most often because libnuma.so.1 is missing (Debian: libnuma1)" in (
        failure.message
    )
    assert words in failure.message, "what vLLM said is kept"


def test_another_failure_does_not_blame_the_compiled_part() -> None:
    from rapidfireai_worker.evals.generators.vllm_engine import start_failure

    failure = start_failure(RuntimeError("failed"), "AttributeError: 'NoneType' object has no attribute 'x'")
    assert failure.reason == "EngineFailed"
    assert "compiled part" not in failure.message
