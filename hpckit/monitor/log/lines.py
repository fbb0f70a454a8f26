"""Lines out of bytes that arrive in any pieces."""

from __future__ import annotations

import re
from typing import Any

# Nobody prints a step in more. What is behind it in a line is passed over.
LONGEST = 8192

# A progress bar is drawn again after a carriage return: each drawing is a line here.
_END = re.compile(rb"[\r\n]")
_CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b]*+(?:\x07|\x1b\\)?|.)|[\x00-\x08\x0b-\x1f\x7f]"
)


class Lines:
    """Takes pieces, gives whole lines without colours; holds no more than one line of bounded
    length, whatever is printed."""

    def __init__(self) -> None:
        self._half = b""

    def take(self, data: bytes) -> list[str]:
        """The lines that this piece ends; characters cut in half are whole again in them."""
        *whole, rest = _END.split(data)
        found = []
        for piece in whole:
            found.append(_clean((self._half + piece)[:LONGEST]))
            self._half = b""
        self._half = (self._half + rest[:LONGEST])[:LONGEST]
        return [line for line in found if line]

    def rest(self) -> list[str]:
        """The line that nothing will end any more."""
        return self.take(b"\n")

    def state_dict(self) -> dict[str, Any]:
        return {"half": self._half.decode("latin-1")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._half = state["half"].encode("latin-1")


def _clean(line: bytes) -> str:
    return _CONTROL.sub("", line.decode("utf-8", errors="replace")).strip()
