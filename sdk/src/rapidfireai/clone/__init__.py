"""What a clone is: its parent's config with a patch merged in, how two configs differ, and what a warm start allows.

The operator, the gateway, the SDK and the notebook all call these functions, so that a clone means the same everywhere.
"""

from rapidfireai.clone.difference import Change, changes, patch_between, spelled
from rapidfireai.clone.merging import cloned
from rapidfireai.clone.spelling import written
from rapidfireai.clone.warm_start import warm_start_obstacle

__all__ = ["Change", "changes", "cloned", "patch_between", "spelled", "warm_start_obstacle", "written"]
