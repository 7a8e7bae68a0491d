"""`python -m rapidfireai_gateway`."""

import sys

from rapidfireai_gateway.main import main

sys.exit(main())
