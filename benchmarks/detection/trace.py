"""A recorded or made training, as a detector sees it, and where the recorded ones are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.split import SHARED, TEST_MODELS, TUNE_MODELS, Families, chosen

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Norm before clipping and loss of each optimizer step, and what is known of them."""

    name: str
    family: str
    # `healthy`, or the fault.
    kind: str
    norm: Floats
    loss: Floats
    healthy: bool
    # The first step whose weights or update were bad, where it is known.
    begin: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def cache_folder() -> Path:
    """Where generated runs are kept: outside the repository."""
    given = os.environ.get("HPCKIT_BENCH_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "hpckit-bench"


def corpus_file(family: str) -> Path:
    return cache_folder() / "detection" / f"{family}.npz"


def older_file() -> Path:
    """A file of earlier small trainings, used where somebody put one."""
    return cache_folder() / "shared.npz"


def write(traces: list[Trace], path: Path) -> None:
    """Keep traces in one file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    about = []
    for number, trace in enumerate(traces):
        arrays[f"{number}/norm"], arrays[f"{number}/loss"] = trace.norm, trace.loss
        about.append(
            {
                "name": trace.name,
                "family": trace.family,
                "kind": trace.kind,
                "healthy": trace.healthy,
                "begin": trace.begin,
                "notes": dict(trace.notes),
            }
        )
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npz")
    try:
        with open(temporary, "wb") as stream:
            np.savez_compressed(stream, about=np.array(json.dumps(about)), **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def recorded(path: Path) -> Iterator[Trace]:
    """The traces of a file, one after the other."""
    with np.load(path) as kept:
        for number, about in enumerate(json.loads(str(kept["about"]))):
            yield Trace(norm=kept[f"{number}/norm"], loss=kept[f"{number}/loss"], **about)


def shared(path: Path) -> Iterator[Trace]:
    """The small trainings of an older file: `_ok` runs are healthy, others show at their end."""
    with np.load(path) as kept:
        for run in sorted({key.split("/")[0] for key in kept}):
            for ending in ("", "_d"):
                if f"{run}/norm{ending}" not in kept:
                    continue
                healthy = "_ok" in run
                yield Trace(
                    name=run + ending,
                    family=run.split("_")[0],
                    kind="healthy" if healthy else "lr_hot",
                    norm=kept[f"{run}/norm{ending}"],
                    loss=kept[f"{run}/loss{ending}"],
                    healthy=healthy,
                )


def load_family(family: str) -> Iterator[Trace]:
    """Every trace of one family, recorded or made."""
    if family in (*TUNE_MODELS, *TEST_MODELS):
        yield from recorded(corpus_file(family))
    elif family not in SHARED:
        from benchmarks.detection.synthetic import made

        yield from made((family,))
    elif older_file().exists():
        yield from (trace for trace in shared(older_file()) if trace.family == family)


def missing(families: Families) -> list[Path]:
    """The recorded families that are not there: what makes them takes some minutes."""
    recorded_ones = set(chosen(families)) & {*TUNE_MODELS, *TEST_MODELS}
    return [path for path in map(corpus_file, sorted(recorded_ones)) if not path.exists()]


def load(families: Families) -> Iterator[Trace]:
    """Every trace of a half."""
    for family in chosen(families):
        yield from load_family(family)
