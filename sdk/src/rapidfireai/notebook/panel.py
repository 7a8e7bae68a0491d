"""The panel's kernel side: gives the browser its login, and passes requests on where the browser cannot.

The login goes in a message of its own and in no trait: traits are what a notebook's file keeps of a widget.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from rapidfireai.notebook.client import GatewayClient

_FOLDER = Path(__file__).parent


class Panel(anywidget.AnyWidget):
    """The widget; `panel.js` is the browser's side of it.

    Attributes:
        namespace: The workspace; empty for the first that the user may see.
        experiment: The experiment's name; empty for the newest, one that is not finished first.
        run: The number of the run that is shown in full; 0 for none.
        interval: Seconds between looks where changes are not sent; 0 looks only when asked.
    """

    _esm = _FOLDER / "panel.js"
    _css = _FOLDER / "panel.css"
    namespace = traitlets.Unicode().tag(sync=True)
    experiment = traitlets.Unicode().tag(sync=True)
    run = traitlets.Int().tag(sync=True)
    interval = traitlets.Float(5.0, min=0.0).tag(sync=True)

    def __init__(self, client: GatewayClient, **traits: Any) -> None:
        super().__init__(**traits)
        self._client = client
        self.on_msg(self._answer)

    def greet(self) -> None:
        """Tell the browser address and token."""
        gateway = self._client.gateway
        self.send({"kind": "login", "url": gateway.url, "token": gateway.token})

    def _answer(self, _widget: object, message: dict[str, Any], _buffers: object) -> None:
        match message:
            case {"kind": "login"}:
                self._client.renew()
                self.greet()
            case {"kind": "ping"}:
                self.send({"kind": "pong"})
            case {"kind": "request", "id": number, "method": method, "path": path, **rest}:
                answer = self._client.send(method, path, rest.get("body"))
                self.send({"kind": "answer", "id": number, "status": answer.status, "text": answer.text})
