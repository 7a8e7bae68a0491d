"""What user code prints reaches the pod's log without secrets."""

from __future__ import annotations

import subprocess
import sys

SAY = """
import os, sys, traceback
from rapidfireai_worker.streams import redact_prints
redact_prints()
print(dict(os.environ))
print("key:", os.environ["HF_TOKEN"], file=sys.stderr)
sys.stdout.writelines([os.environ["OTHER"] + chr(10)])
print(sys.stdout.encoding, sys.stdout.fileno(), flush=True)
raise ValueError(os.environ["OTHER"])
"""


def test_nothing_that_is_printed_shows_a_secret() -> None:
    environ = {"HF_TOKEN": "a-long-secret", "OTHER": "another-secret", "RAPIDFIRE_SECRET_VARIABLES": "OTHER"}
    said = subprocess.run([sys.executable, "-c", SAY], env=environ, capture_output=True, text=True, check=False)
    everything = said.stdout + said.stderr
    assert "secret" not in everything.replace("RAPIDFIRE_SECRET_VARIABLES", "")
    assert "'HF_TOKEN': '[HF_TOKEN]'" in said.stdout
    assert "key: [HF_TOKEN]" in said.stderr
    assert "ValueError: [OTHER]" in said.stderr
    assert said.stdout.splitlines()[-2:] == ["[OTHER]", "utf-8 1"]
