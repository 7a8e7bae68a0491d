"""A real server in OpenAI's style: vLLM's own, with a tiny random model. Starting it takes a minute on two cores."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.support.tiny import SERVED, write_tiny_model
from tests.support.waiting import wait_for

SERVED_NAME = "tiny-llama"
SERVER_KEY = "sk-loopback-vllm-0123456789"
_START_SECONDS = 300.0


@dataclass(frozen=True)
class OpenAiServer:
    """A server that runs.

    Attributes:
        address: Where, without `/v1`.
        model: The name of its model.
        key: The key that it asks for.
    """

    address: str
    model: str
    key: str

    @property
    def url(self) -> str:
        """The `base_url` of clients."""
        return f"{self.address}/v1"


@contextmanager
def openai_server(folder: Path, model: Path | None = None, longest: int = 512) -> Iterator[OpenAiServer]:
    """Start a server and wait until it answers.

    Args:
        folder: Takes its log, and the tiny model.
        model: A model folder to serve instead.
        longest: Tokens of a prompt and its answer.
    """
    if model is None:
        model = write_tiny_model(folder / "model", **SERVED)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--model", str(model), "--served-model-name", SERVED_NAME, "--host", "127.0.0.1", "--port", str(port)]
    words += ["--dtype", "float32", "--enforce-eager", "--api-key", SERVER_KEY, "--max-model-len", str(longest)]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
    environ = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environ, stdout=out, stderr=subprocess.STDOUT)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(f"answer of the server, see {log}", answers, _START_SECONDS)
        yield OpenAiServer(f"http://127.0.0.1:{port}", SERVED_NAME, SERVER_KEY)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAiServer]:
    """One server for all tests of a session that import this; mark them `xdist_group("openai_server")`."""
    with openai_server(tmp_path_factory.mktemp("openai-server")) as server:
        yield server
