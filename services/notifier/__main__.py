"""``python -m services.notifier --config FILE``."""

import sys

from attestream.process import main
from services.notifier.service import run

sys.exit(main("notifier", run))
