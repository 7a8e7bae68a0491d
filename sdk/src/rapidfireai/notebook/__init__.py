"""Steering runs from a notebook: a panel in the browser, and the same operations in Python."""
