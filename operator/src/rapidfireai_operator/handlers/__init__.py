"""kopf's functions: each reads, lets the core decide or the picture fold, and wakes who has to act."""
