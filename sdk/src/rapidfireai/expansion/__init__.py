"""How configs with knobs become the runs' configs: `rapidfireai.expand` is what others import."""
