"""Whoever wants to watch a run product by product: the command line draws its progress bar through this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ProgressResource:
    """Passes every event of the line (see `assets.stream`) to a listener; without one, nobody watches."""

    def __init__(self, listener: Callable[[Any], None] | None = None) -> None:
        self.listener = listener

    def report(self, event: Any) -> None:
        """Called from the run's own thread, in order."""
        if self.listener is not None:
            self.listener(event)
