"""Where notebooks import some things from; their home is elsewhere in this package."""
