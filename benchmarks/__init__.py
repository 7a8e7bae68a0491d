"""Benchmarks of the whole system; see README.md."""
