"""Regular expressions that a person writes to find numbers in a log."""

from __future__ import annotations

import re
import warnings


def problem_with(pattern: str) -> str | None:
    """What keeps a pattern from being used, None where nothing does.

    One that may take for ever is no problem here: it is stopped when it does.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            groups = re.compile(pattern).groupindex
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}"
    if not groups:
        return "has no named group such as (?P<loss>...)"
    if ("parameter" in groups) != ("parameter_norm" in groups):
        return "needs the groups parameter and parameter_norm together"
    return None
