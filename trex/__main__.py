"""`python -m trex` is `trex`; `torchrun -m trex` needs it."""

import sys

from trex.cli import main

sys.exit(main())
