"""Rows of data sets: found by URI, read once, formatted and kept on the volume."""
