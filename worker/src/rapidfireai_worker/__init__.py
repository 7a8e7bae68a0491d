"""The worker: runs chunks of many configs in one warm process; and the volume service."""
