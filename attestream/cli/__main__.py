"""``python -m attestream.cli``: the same as the command ``attestream``."""

import sys

from attestream.cli.main import main

sys.exit(main())
