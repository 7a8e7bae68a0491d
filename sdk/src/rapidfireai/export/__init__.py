"""Bringing a run's model home: verified files, merged if wanted, with a card that says how it came to be."""

from rapidfireai.export.exporting import export_run

__all__ = ["export_run"]
