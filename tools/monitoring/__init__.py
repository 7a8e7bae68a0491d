"""Dashboards, alerts and the reference of metrics, made from the registries that the parts really have."""
