"""`python -m study` is the command `study`."""

import sys

from study.cli.main import main

sys.exit(main())
