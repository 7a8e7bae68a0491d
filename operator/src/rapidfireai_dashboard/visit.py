"""Who looks at a page, and what every page has around its content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request
from nicegui import ui

from rapidfireai_dashboard.lanes import LaneBook
from rapidfireai_gateway.auth import Caller, caller
from rapidfireai_gateway.backend import Backend, Services
from rapidfireai_gateway.errors import not_logged_in
from rapidfireai_gateway.sessions import COOKIE

_BROWSER_SECONDS = 10.0
"""How long a browser may take to answer."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who looks at a page.

    A page outlives the request that made it: whoever logs out in one window is asked for a login in the others.
    """

    services: Services
    caller: Caller
    session: str

    def backend(self) -> Backend:
        """Return what they can see and do.

        Raises:
            GatewayError: 401 if they have logged out since.
        """
        if self.caller.source == "session" and self.services.sessions.token(self.session) is None:
            raise not_logged_in("you are logged out; log in again")
        return self.services.backend(self.caller.token)


@dataclass(frozen=True, slots=True)
class Desk:
    """What all pages share.

    Attributes:
        services: The gateway's.
        lanes: What was seen of the experiments' workers.
    """

    services: Services
    lanes: LaneBook

    def visitor(self, request: Request) -> Visitor | None:
        """Return who makes a request; None if they have to log in."""
        found = caller(request, self.services.sessions, self.services.settings.forwarded_token_header)
        return Visitor(self.services, found, request.cookies.get(COOKIE, "")) if found else None


class Theme:
    """Light or dark, as the browser wants it or the user said."""

    def __init__(self) -> None:
        self.mode = ui.dark_mode(None)
        self.dark = False
        self._told: list[Callable[[], None]] = []

    def on_change(self, act: Callable[[], None]) -> None:
        """Have something drawn anew when the theme changes."""
        self._told.append(act)

    async def begin(self) -> None:
        """Ask the browser what it wants."""
        try:
            self._set(bool(await ui.run_javascript("rf.isDark()", timeout=_BROWSER_SECONDS)))
        except TimeoutError:
            return  # the browser went to another page meanwhile: there is nothing to be dark any more

    def toggle(self) -> None:
        """Change it, and have the browser remember that."""
        self._set(not self.dark)
        ui.run_javascript(f"rf.keepDark({str(self.dark).lower()})")

    def _set(self, dark: bool) -> None:
        self.dark = self.mode.value = dark
        for act in self._told:
            act()


class Banner:
    """The line at the top that says what is wrong at present."""

    def __init__(self) -> None:
        with ui.element("div").classes("rf-banner").props('role=alert data-testid="banner"') as self._box:
            self._text = ui.label()
            self._link = ui.link("Log in", "/login")
        self.say("")

    def say(self, text: str, *, login: bool = False) -> None:
        """Show a sentence; nothing hides the banner."""
        self._text.text = text
        self._link.visible = login
        self._box.visible = bool(text)


@contextmanager
def framed(theme: Theme, title: str, back: bool = False) -> Iterator[Banner]:
    """Put a page's head around what is made inside; yields the banner.

    Args:
        theme: The page's theme.
        title: The page's title.
        back: Whether a link leads back to the list of experiments.
    """
    ui.add_head_html('<link rel="stylesheet" href="/static/dashboard.css"><script src="/static/dashboard.js"></script>')
    ui.query("html").props("lang=en")
    ui.link("Skip to the content", "#content").classes("rf-skip")
    with ui.element("header").classes("rf-top"):
        if back:
            ui.link("Experiments", "/").props('data-testid="back"')
        with ui.element("h1").props('data-testid="title"'):
            ui.label(title)
        ui.element("div").classes("rf-grow")
        ui.button("Light or dark", on_click=theme.toggle).props('flat dense data-testid="theme"')
        with ui.element("form").props('method=post action="/logout"'):
            ui.button("Log out").props('flat dense type=submit data-testid="logout"')
    banner = Banner()
    with ui.element("main").classes("rf-page").props("id=content tabindex=-1"):
        yield banner
