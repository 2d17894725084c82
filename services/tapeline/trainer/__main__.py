"""`python -m tapeline.trainer --agent local` starts an agent."""

from __future__ import annotations

import sys

from tapeline.trainer.app import main

sys.exit(main())
