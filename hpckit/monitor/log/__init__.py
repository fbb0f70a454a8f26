"""Any program's log: patterns with named groups turn what it prints into readings."""

from __future__ import annotations

from hpckit.monitor.log.follower import Follower
from hpckit.monitor.log.patterns import READY, Patterns, patterns_of
from hpckit.monitor.log.reader import LogReader

__all__ = ["READY", "Follower", "LogReader", "Patterns", "patterns_of"]
