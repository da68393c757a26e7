"""``python -m services.registrar --config FILE``."""

import sys

from attestream.process import main
from services.registrar.service import run

sys.exit(main("registrar", run))
