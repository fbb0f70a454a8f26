"""All that a report tells of one run, read once: what `show` says, the readings, spec, machines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpckit.errors import HpckitError
from hpckit.files import read_json
from hpckit.logs import last_words
from hpckit.monitor.readings.columns import Columns, read_columns
from hpckit.report.lines import with_rate
from hpckit.run import Run, launches_in

Told = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """One run as it is told."""

    run: Run
    told: Told
    columns: Columns
    # Which launch of which attempt a folder of readings is of.
    launches: tuple[tuple[int, int], ...]
    spec: Any
    # What each attempt, and each of its launches, found around it.
    machines: tuple[tuple[str, dict[str, Any]], ...]
    # Of what failed: its log, and the end of it.
    last_words: tuple[Path, list[str]] | None = None
    # What could not be read, and why.
    missing: tuple[str, ...] = ()

    @property
    def incidents(self) -> list[Told]:
        return list(self.told["incidents"])

    @property
    def acted(self) -> list[Told]:
        """Incidents about which something was done."""
        return [each for each in self.incidents if each["plan"] not in (None, "tell", "skip")]

    @property
    def blamed(self) -> frozenset[str]:
        """The optimizers whose numbers went wrong."""
        return frozenset(str(each["optimizer"]) for each in self.acted if each["optimizer"])


def facts_of(run: Run, describe: Callable[[Run], Told]) -> Facts:
    """Of a run in any state; what is damaged is missing, and the rest is told."""
    missing = []
    try:
        told = describe(run)
    except (
        HpckitError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:
        # Whatever is in a damaged folder: the curves may be sound.
        is_known = isinstance(error, (HpckitError, OSError))
        missing.append(str(error) if is_known else f"{run.dir} makes no sense: {error!r}")
        told = _untold(run)
    told = {**told, "incidents": [_sound(each) for each in told["incidents"]]}
    folders = [
        (attempt.number, int(folder.name.removeprefix("launch-")), folder)
        for attempt in run.attempts()
        for folder in launches_in(attempt.dir / "readings")
    ]
    try:
        columns = read_columns(folder for *_, folder in folders)
    except OSError as error:
        missing.append(f"the readings: {error}")
        columns = read_columns([])
    return Facts(
        run=run,
        told=told,
        columns=with_rate(columns),
        launches=tuple((attempt, launch) for attempt, launch, _ in folders),
        spec=_spec(run),
        machines=tuple(_machines(run)),
        last_words=_last_words(told),
        missing=tuple(missing),
    )


def _last_words(told: Told) -> tuple[Path, list[str]] | None:
    with contextlib.suppress(OSError):
        return last_words(told)
    return None


def _sound(incident: Told) -> Told:
    """Steps that are none count as unknown: a damaged line must not hide the rest."""
    steps = {name: incident[name] for name in ("step", "resumed_step")}
    return {**incident, **{n: s if isinstance(s, int) else None for n, s in steps.items()}}


def _spec(run: Run) -> Any:
    """As it was resolved, with a point's own parameters."""
    found = read_json(run.home / "spec.json")
    return {**found, "params": run.params} if isinstance(found, dict) else None


def _machines(run: Run) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for attempt in run.attempts():
        with contextlib.suppress(OSError):
            for path in sorted((attempt.dir / "environment").glob("*.json")):
                about = read_json(path)
                if isinstance(about, dict):
                    found.append((f"attempt {attempt.number}, {path.stem}", about))
    return found


def _untold(run: Run) -> Told:
    """The little that is known of a run whose folder is damaged."""
    return {
        "run": run.id,
        "name": run.name,
        "dir": str(run.dir),
        "state": "unknown",
        "reason": "the run directory is damaged",
        "created": run.created,
        "scheduler": run.scheduler,
        "params": run.params,
        "params_now": run.params,
        "varied": list(run.varied),
        "asked": [],
        "step": None,
        "exit_code": None,
        "gpu_hours": {"used": 0.0, "lost": 0.0, "limit": None, "unit": "h"},
        "next": None,
        "ends_by": None,
        "attempts_left": 0,
        "limit_reached": None,
        "attempts": [],
        "waited_s": 0.0,
        "now": {},
        "incidents": [],
        "unsaved": None,
        "checkpoints": [],
    }
