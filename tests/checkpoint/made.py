"""Checkpoints as a training leaves them, with bytes for tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpckit.checkpoint import manifest
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.checkpoint.names import Segment, folder_name
from hpckit.checkpoint.store import Store
from hpckit.ledger import Ledger

FIRST = Segment(1, 1)
SECOND = Segment(2, 1)


def make(
    run: Path,
    step: int,
    segment: Segment = FIRST,
    *,
    good: int | None = None,
    files: dict[str, bytes] | None = None,
    nth: int = 1,
    **about: Any,
) -> Checkpoint:
    """A whole checkpoint on disk."""
    path = run / "checkpoints" / folder_name(step, segment, nth)
    path.mkdir(parents=True)
    contents = files or {"state.pt": bytes(range(40)), "rank-0.pt": b"random"}
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    told = {name: manifest.measure(path / name) for name in contents}
    about = {"finite": True, "created": "2026-07-20T02:14:05.123456Z", "why": "every", **about}
    manifest.write(Checkpoint(path=path, step=step, segment=segment, files=told, **about))
    found = manifest.read(path)
    assert found is not None
    return found if good is None else manifest.confirm(found, good)


def plain(step: int, segment: Segment = FIRST, **about: Any) -> Checkpoint:
    """One that is on no disk, for decisions."""
    path = Path(folder_name(step, segment))
    return Checkpoint(path=path, step=step, segment=segment, **{"finite": True, **about})


def store_of(run: Path) -> Store:
    return Store(run / "checkpoints", run / "ledger")


def begin(run: Path, segment: Segment, step: int, kind: str = "resumed") -> None:
    """What rank 0 writes down when a segment takes up."""
    ledger = Ledger(run / "ledger", f"attempt-{segment.attempt:03d}-launch-{segment.launch}")
    ledger.write(
        kind,
        attempt=segment.attempt,
        launch=segment.launch,
        rollbacks=segment.rollbacks,
        step=step,
    )


def steps(checkpoints: list[Checkpoint]) -> list[int]:
    return [found.step for found in checkpoints]
