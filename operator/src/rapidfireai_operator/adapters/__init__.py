"""The edges: the API server, MLflow, Prometheus and the clock. They decide nothing."""
