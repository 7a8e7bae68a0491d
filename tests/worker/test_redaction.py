"""Secrets that a worker holds are in nothing that it tells."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai_worker import wire
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.failures import MESSAGE_LIMIT
from rapidfireai_worker.redaction import redact
from rapidfireai_worker.slot import Grant

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl-_x"
GRANT = Grant(uid="u", name="e-r1", attempt=3, task="chunk", chunk=1, granted_at=1.0)
SAY = """
import logging, os, structlog
from rapidfireai_worker.logs import configure_logging
configure_logging()
log = structlog.get_logger("x")
log.error("the hub refused " + os.environ["HF_TOKEN"], headers={"key": os.environ["OTHER"]})
logging.getLogger("library").warning("password %s", os.environ["OTHER"])
try:
    raise ValueError(os.environ["HF_TOKEN"])
except ValueError:
    log.exception("failed")
"""


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "WANDB_API_KEY", "openai_api_key", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "TOKEN", "MY_SECRET"],
)
def test_values_of_variables_that_are_called_secret_are_named_instead(name: str) -> None:
    assert redact("the hub refused 0123-456789!", {name: "0123-456789"}) == f"the hub refused [{name}]!"


def test_values_that_came_from_a_secret_are_taken_out_whatever_they_are_called() -> None:
    environ = {"MIRROR": "user-and-word", "REGION": "eu-central-1", "RAPIDFIRE_SECRET_VARIABLES": "OTHER,MIRROR"}
    assert redact("user-and-word in eu-central-1", environ) == "[MIRROR] in eu-central-1"


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MAX_NEW_TOKENS", "HF_TOKEN_PATH", "AWS_ACCESS_KEY_ID"])
def test_other_values_stay(name: str) -> None:
    assert redact("the value 0123456789", {name: "0123456789"}) == "the value 0123456789"


def test_a_short_value_garbles_nothing() -> None:
    assert redact("a true sentence", {"USE_TOKEN": "true"}) == "a true sentence"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"Unauthorized: Bearer {JWT}", "Unauthorized: Bearer [redacted]"),
        ("login with hf_abcdefghijklmnopqrst failed", "login with [redacted] failed"),
        ("Incorrect API key: sk-proj-0123456789abcdef.", "Incorrect API key: [redacted]."),
        ("cannot reach https://me:word@hub.example/x", "cannot reach https://[redacted]@hub.example/x"),
        ("see https://hub.example:443/a@b", "see https://hub.example:443/a@b"),
    ],
)
def test_what_is_secret_by_its_shape_is_taken_out(text: str, told: str) -> None:
    assert redact(text, {}) == told


words = st.text("abc \n")
secrets = st.text('0123456789"\\\n', min_size=8)


@given(secrets, words, words)
def test_no_secret_is_left_in_plain_words_nor_in_json(secret: str, before: str, after: str) -> None:
    environ = {"HF_TOKEN": secret}
    assert redact(before + secret + after, environ) == f"{before}[HF_TOKEN]{after}"
    assert json.loads(redact(json.dumps([before + secret + after]), environ)) == [f"{before}[HF_TOKEN]{after}"]


def test_one_secret_inside_another_is_no_loophole() -> None:
    environ = {"A_TOKEN": "12345678", "B_TOKEN": "12345678-and-more"}
    assert redact("12345678-and-more", environ) == "[B_TOKEN]"


def test_a_failure_reaches_its_resource_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-long-secret")
    failure = RunFailure("UserCodeError", "401 for a-long-secret " + "x" * MESSAGE_LIMIT)
    message = wire.failure_commit(GRANT, failure, 0, 1.0)["status"]["progress"]["error"]["message"]
    assert message.startswith("401 for [HF_TOKEN] x")
    assert len(message) == MESSAGE_LIMIT


def test_no_line_of_the_log_has_a_secret() -> None:
    """Neither the words, nor fields, nor a library's lines, nor a traceback."""
    environ = {"HF_TOKEN": "a-long-secret", "OTHER": 'with "quotes"', "RAPIDFIRE_SECRET_VARIABLES": "OTHER"}
    said = subprocess.run([sys.executable, "-c", SAY], env=environ, capture_output=True, text=True, check=True).stderr
    lines = [json.loads(line) for line in said.splitlines()]
    assert lines[0]["event"] == "the hub refused [HF_TOKEN]"
    assert lines[0]["headers"] == {"key": "[OTHER]"}
    assert lines[1]["event"] == "password [OTHER]"
    assert "ValueError: [HF_TOKEN]" in lines[2]["exception"]
    assert logging.getLevelName(logging.ERROR).lower() == lines[2]["level"]
