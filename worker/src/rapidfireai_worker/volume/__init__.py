"""The volume service of a workspace: what users send to the shared volume and fetch from it, and MLflow's feed."""
