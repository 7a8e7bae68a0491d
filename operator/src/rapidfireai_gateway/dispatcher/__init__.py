"""The routes of the original system, for programs that were written for it."""
