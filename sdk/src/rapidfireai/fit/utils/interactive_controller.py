"""The import path of notebooks for the panel that steers runs."""

from rapidfireai.notebook.controller import InteractiveController

__all__ = ["InteractiveController"]
