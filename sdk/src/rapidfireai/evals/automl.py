"""The import path of some notebooks for `rapidfireai.automl`."""

from rapidfireai.automl import *  # noqa: F403 - the same names from another place
