"""`python -m rapidfireai_operator`."""

import sys

from rapidfireai_operator.main import main

sys.exit(main())
