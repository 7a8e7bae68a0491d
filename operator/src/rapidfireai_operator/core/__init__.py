"""Every decision, as pure functions over frozen values: no kopf, no client, no clock, no I/O."""
