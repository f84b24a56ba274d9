"""What all tests share."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

# `from tests.… import` works from any environment. At the end of the path, so that an installed
# porter is tested where there is one, and not the source tree.
sys.path.append(str(Path(__file__).parents[1]))

# A shell without job control has what runs in the background ignore SIGINT, and so its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Environments of their own have tests of their own, run by `make bare` and `make old`.
collect_ignore = ["bare", "old"] if importlib.util.find_spec("torch") else []

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # The same examples on every run, and no time limit that a busy machine could break.
    settings.register_profile("porter", deadline=None, derandomize=True)
    settings.load_profile("porter")
