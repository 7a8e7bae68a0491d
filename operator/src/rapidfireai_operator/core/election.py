"""Who leads: what one candidate knows of the Lease, reckoned by its own clock alone."""

from __future__ import annotations

from dataclasses import dataclass

KEPT = 0.8
"""The part of a Lease after which its holder stops; the rest is the margin before anyone else may begin."""


@dataclass(slots=True)
class Election:
    """One candidate's part in an election.

    Times that other machines wrote down are never compared with: a candidate waits until it has seen nothing change
    for the Lease's whole duration, and a leader counts from the moment at which it *sent* its last renewal. So the
    leader has stopped before anybody else begins, whatever their clocks show.

    Args:
        identity: This candidate's name in the Lease.
        seconds: How long the Lease lasts without a renewal.
    """

    identity: str
    seconds: float
    _version: str = ""
    _changed: float = 0.0
    _until: float = float("-inf")

    def wait(self, holder: str, version: str, seconds: float, now: float) -> float:
        """Return for how many seconds the Lease may not be taken yet; 0 if it may.

        Args:
            holder: Who holds it; empty after it was given back.
            version: The Lease's resource version.
            seconds: How long it lasts by its own word.
            now: Seconds on this candidate's clock.
        """
        if version != self._version:
            self._version, self._changed = version, now
        if holder in {"", self.identity}:
            return 0.0
        return max(0.0, self._changed + seconds - now)

    def renewed(self, sent: float) -> None:
        """Take up that the Lease was written by a request that was sent then."""
        self._until = sent + KEPT * self.seconds

    def resign(self) -> None:
        """Hold the Lease no more."""
        self._until = float("-inf")

    def left(self, now: float) -> float:
        """Return for how many seconds this candidate leads without a renewal; 0 if it does not lead."""
        return max(0.0, self._until - now)
