"""Where notebooks import some things of evaluations from; their home is elsewhere in this package."""
