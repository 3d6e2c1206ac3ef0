"""`python -m fusiform`, and `torchrun ... -m fusiform` for several processes."""

import sys

from fusiform.cli import main

sys.exit(main())
