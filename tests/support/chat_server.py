"""A server that speaks the chat completions API, with a function in the place of a model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ChatServer:
    """What the server does, and what was asked of it.

    Attributes:
        url: Its base URL, as an OpenAI client takes it.
        answer: What the model says to the last message.
        gate: While it is closed nothing is answered.
        asked: The last message of each request.
        keys: The API keys that were shown.
    """

    url: str
    answer: Callable[[str], str]
    gate: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


@contextmanager
def chat_server(answer: Callable[[str], str]) -> Iterator[ChatServer]:
    """Yield a running server on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = str(body["messages"][-1]["content"])
            made.asked.append(text)
            made.keys.add(self.headers.get("Authorization", ""))
            made.gate.wait()
            message = {"role": "assistant", "content": made.answer(text)}
            self.reply(
                {
                    "id": "c",
                    "object": "chat.completion",
                    "created": 1,
                    "model": body["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
                }
            )

        def do_GET(self) -> None:
            self.reply({"object": "list", "data": [{"id": "function", "object": "model"}]})

        def reply(self, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made = ChatServer(f"http://127.0.0.1:{server.server_port}/v1", answer)
    made.gate.set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.gate.set()
        server.shutdown()
        server.server_close()
