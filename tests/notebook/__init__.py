"""Tests of the notebook's panel; as a package, so that its fixtures end with it."""
