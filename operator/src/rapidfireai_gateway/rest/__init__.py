"""The REST API: thin routes over `Backend`."""
