"""Numbers as programs print them."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(
    r"""(?P<sign>[-+]?)(?:
        (?P<nan>1\.\#(?:IND|QNAN|SNAN)\d*+|nan(?:\([a-z0-9_]*+\))?)
      | (?P<inf>1\.\#INF\d*+|inf(?:inity)?)
      | (?P<digits>(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)(?:\.\d*+)?(?:e[-+]?\d++)?
                  |\.\d++(?:e[-+]?\d++)?)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
# `tensor(2.31, device=...)`, `np.float64(2.31)`, `[2.31]`, `'2.31'`.
_WRAPPING = re.compile(r"(?:[A-Za-z_][\w.]*+\(|[\[({'\"])++")


def number(text: str) -> float | None:
    """The number that a text begins with, None where it is none or could be read two ways.

    `1,557,911` has thousands separators; `0,5`, `2.5k` and `3s` are not guessed at.
    """
    text = text.strip()
    found = _number(text)
    if found is None and (wrapping := _WRAPPING.match(text)):
        found = _number(text[wrapping.end() :])
    return found


def _number(text: str) -> float | None:
    match = _NUMBER.match(text)
    if match is None:
        return None
    rest = text[match.end() : match.end() + 2]
    if rest[:1].isalnum() or rest[:1] in ("_", "#") or (rest[:1] == "," and rest[1:].isdigit()):
        return None
    if match["nan"] is not None:
        return math.nan
    size = math.inf if match["inf"] is not None else float(match["digits"].replace(",", ""))
    return -size if match["sign"] == "-" else size


def whole(text: str) -> int | None:
    """A step, an epoch or a batch: a whole number that is not below 0."""
    found = number(text)
    if found is None or not 0 <= found < 2**63 or found != int(found):
        return None
    return int(found)
