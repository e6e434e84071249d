"""Ctrl-C for the commands that tests run."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from typing import Any


def start_interruptible(command: Sequence[str], **pipes: Any) -> subprocess.Popen[str]:
    """Start a command that heeds SIGINT, however the tests were started.

    A shell makes what it runs in the background (`pytest &`) ignore SIGINT, and so does what that starts in turn. A
    signal that is handled here goes back to its default there.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, text=True, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
