"""`python -m autoshard`: the command line, where its script is not on the path."""

import sys

from autoshard.cli.main import main

sys.exit(main())
