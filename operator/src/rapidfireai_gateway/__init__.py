"""The gateway: the REST API, and what the dashboard stands on. Each request acts with its caller's own token."""
