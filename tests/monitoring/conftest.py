"""What is generated is tested by what generates it."""

from __future__ import annotations

import sys

from tests.support.prometheus import ROOT

sys.path.insert(0, str(ROOT / "tools"))
