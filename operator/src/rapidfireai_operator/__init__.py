"""The operator: expands experiments, schedules chunks, judges runs."""
