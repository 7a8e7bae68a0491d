"""The functions that users wrote, brought to the worker: bundles, source of manifests, installed modules."""
