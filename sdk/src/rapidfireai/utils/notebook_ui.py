"""The name of newer notebooks for the panel that steers runs."""

from __future__ import annotations

from rapidfireai.notebook.controller import InteractiveController


class NotebookUI(InteractiveController):
    """`InteractiveController` with the arguments that some notebooks give.

    Args:
        dispatcher_url: As for `InteractiveController`.
        refresh_rate_seconds: How often the panel looks where changes are not sent to it.
        auth_token: The `token` of `InteractiveController`.
    """

    def __init__(
        self, dispatcher_url: str | None = None, refresh_rate_seconds: float = 3.0, auth_token: str | None = None
    ) -> None:
        super().__init__(dispatcher_url, token=auth_token)
        self.auto_refresh(refresh_rate_seconds)
