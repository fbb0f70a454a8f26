"""`hpckit.attach()`: a run's session inside one, plain PyTorch outside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hpckit.errors import UsageError
from hpckit.train.outside import Outside
from hpckit.train.surroundings import Surroundings


def attach(params: Mapping[str, Any] | None = None) -> Any:
    """This process's part in its run; `params` are defaults, which a run's own go over."""
    if params is not None and not isinstance(params, Mapping):
        raise UsageError(f"attach: params must be a mapping of defaults, not {params!r}")
    around = Surroundings.of()
    if around is None:
        return Outside(params or {})
    from hpckit.train.session import Session

    session = Session(around, params or {})
    session.live(os.environ)
    return session
