"""Where fetched sounds live: HPCKIT_DATA, or this user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder(flag: str | None = None) -> Path:
    """The folder that holds a folder for each set."""
    from hpckit.settings import at_home, cache_folder

    given = flag or os.environ.get("HPCKIT_DATA")
    return at_home(given).absolute() if given else cache_folder()
