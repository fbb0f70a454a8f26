"""Ends trainings at random moments until there were so many, and compares what comes of them.

Each training is ended again and again, by SIGKILL at any time, at a line of the code that saves or
of the loop, by SIGTERM, or by an exception, and goes on in its next attempt. In the end its
weights, buffers, optimizers, schedules, random numbers and its curve must be those of a twin that
nobody touched, byte for byte; no state may be unreadable, and no step that a checkpoint holds may
be done once more. Exit code 1 if anything differs.

    python -m benchmarks.kills [--kills 200] [--seed 0] [--only nested]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.train.kill_lives import Nursery
from tests.train.kill_runs import Trial, Twin, killed
from tests.train.kill_trainings import VARIANTS

# One run is ended at most so often: then it may come to its end.
KILLS_OF_A_RUN = 5
COLUMNS = (
    "SIGKILL, any time",
    "SIGKILL, in a save",
    "SIGKILL, in the loop",
    "SIGTERM, any time",
    "SIGTERM, in a save",
    "exception",
)


@dataclass(kw_only=True)
class Row:
    """What happened to the runs of one training."""

    runs: int = 0
    lives: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        self.runs += 1
        self.lives += trial.lives
        self.ends += trial.ends
        self.wrong += trial.wrong

    def __str__(self) -> str:
        kills = "".join(f"{self.ends[name]:>9}" for name in COLUMNS)
        return f"{self.runs:>5}{self.lives:>6}{self.ends.total():>6}{kills}{len(self.wrong):>7}"


def measured(folder: Path, names: list[str], kills: int, first: int) -> dict[str, Row]:
    """Every training in turn, each time with other moments, until there were enough kills."""
    rows = {name: Row() for name in names}
    with Nursery() as nursery:
        twins = {
            name: Twin.of(nursery, folder / f"{number}-twin", name)
            for number, name in enumerate(names)
        }
        for seed in itertools.count(first):
            for number, name in enumerate(names):
                run, most = folder / f"{number}-{seed}", KILLS_OF_A_RUN
                trial = killed(nursery, run, name, twins[name], kills=most, seed=seed)
                rows[name].add(trial)
                for line in trial.wrong:
                    print(f"{name}, seed {seed}: {line}", file=sys.stderr, flush=True)
            if sum(row.ends.total() for row in rows.values()) >= kills:
                return rows


def table(rows: dict[str, Row]) -> str:
    heads = [name.split(", ") for name in COLUMNS]
    first = "".join(f"{head[0]:>9}" for head in heads)
    second = "".join(f"{(head[1:] or [''])[0].replace('in a', 'in').strip():>9}" for head in heads)
    total = Row()
    for row in rows.values():
        total = Row(
            runs=total.runs + row.runs,
            lives=total.lives + row.lives,
            ends=total.ends + row.ends,
            wrong=total.wrong + row.wrong,
        )
    return "\n".join(
        [
            f"{'':<24}{'':>5}{'':>6}{'':>6}{first}",
            f"{'training':<24}{'runs':>5}{'lives':>6}{'kills':>6}{second}{'wrong':>7}",
            *(f"{name:<24}{row}" for name, row in rows.items()),
            f"{'all':<24}{total}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(VARIANTS), action="append")
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        rows = measured(Path(folder), asked.only or list(VARIANTS), asked.kills, asked.seed)
    print(table(rows))
    wrong = sum(len(row.wrong) for row in rows.values())
    kills = sum(row.ends.total() for row in rows.values())
    said = "nothing differs" if not wrong else f"{wrong} things differ"
    print(f"{kills} kills in {time.monotonic() - began:.0f} s: {said}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
