"""What runs for as long as the operator does: reconcilers, the periodic comparison, MLflow, the probes."""
