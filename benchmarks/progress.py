"""Says how far a long run is: a bar on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

_WIDTH = 30


@dataclass
class Progress:
    """Counts steps, and tells of each on ``stream``.

    :ivar total: the number of steps, as far as it is known.
    """

    total: int
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _done: int = 0
    _start: float = field(default_factory=time.monotonic)

    def step(self, text: str) -> None:
        """Tell that a step begins."""
        seconds = time.monotonic() - self._start
        counted = f"{self._done}/{self.total}"
        if self.stream.isatty():
            full = _WIDTH * self._done // max(self.total, 1)
            bar = "#" * full + "." * (_WIDTH - full)
            self.stream.write(f"\r\x1b[K[{bar}] {counted} {seconds:.0f} s  {text}")
        else:
            self.stream.write(f"{seconds:7.1f} s  {counted:>9}  {text}\n")
        self.stream.flush()
        self._done += 1

    def end(self) -> None:
        """Leave the line of the bar."""
        if self.stream.isatty():
            self.stream.write("\r\x1b[K")
            self.stream.flush()
