"""Searches lines with regular expressions; as a program of its own it does so for its parent.

It imports nothing of hpckit: it must be up at once, and is started by its path.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence

# Found: the number of the line, and the groups by name.
Match = tuple[int, dict[str, str]]


def search(pattern: re.Pattern[str], lines: Sequence[str]) -> list[Match]:
    """Every match of one pattern in each line."""
    return [
        (number, {name: text for name, text in match.groupdict().items() if text is not None})
        for number, line in enumerate(lines)
        for match in pattern.finditer(line)
    ]


def _serve() -> None:
    """Lines of JSON in: which patterns to use on which lines; out: what each of them finds."""
    import resource
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        # What the scheduler means for our parent; when that ends, so do we.
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit_s = int(sys.argv[1])
    patterns = [re.compile(each) for each in json.loads(sys.stdin.readline())]
    for asked in sys.stdin:
        lines, wanted = json.loads(asked)
        for number in wanted:
            # The system ends us, by SIGXCPU, when a pattern takes more than this.
            soft = int(time.process_time()) + limit_s + 1
            soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
            print(number, flush=True)
            print(json.dumps(search(patterns[number], lines)), flush=True)


if __name__ == "__main__":
    _serve()
