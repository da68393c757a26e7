"""Run a verifier worker: ``python -m services.verifier --config FILE``."""

import sys

from attestream.process import main
from services.verifier.service import run

sys.exit(main("verifier", run))
