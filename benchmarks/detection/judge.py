"""Judges detectors on the corpus and prints them side by side.

    python -m benchmarks.detection.judge --families tune --detector hpckit --list-misses

The rules of others see only the made traces of up to 10,000 steps: they are there to compare
with, not to tune.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator

from benchmarks.detection.rivals import DETECTORS
from benchmarks.detection.split import Families, chosen
from benchmarks.detection.summary import by_family, summarise, table
from benchmarks.detection.trace import load_family, missing
from benchmarks.detection.verdict import Verdict, judge

RIVALS_LONGEST = 10_000


def judge_family(asked: tuple[str, tuple[str, ...]]) -> dict[str, list[Verdict]]:
    """Every asked detector on every trace of a family."""
    family, names = asked
    found: dict[str, list[Verdict]] = {name: [] for name in names}
    for trace in load_family(family):
        for name in names:
            long = trace.notes.get("synthetic") and len(trace.norm) > RIVALS_LONGEST
            if name == "hpckit" or not long:
                found[name].append(judge(trace, DETECTORS[name]()))
    return found


def judge_all(
    families: Families, names: tuple[str, ...], processes: int
) -> dict[str, list[Verdict]]:
    """Every asked detector on a half of the corpus."""
    found: dict[str, list[Verdict]] = {name: [] for name in names}
    work = [(family, names) for family in chosen(families)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for part in pool.imap(judge_family, work):
            for name, verdicts in part.items():
                found[name] += verdicts
    return found


def misses(name: str, verdicts: list[Verdict]) -> Iterator[str]:
    """A line for each run that was missed, falsely alarmed, or whose onset came too late."""
    for v in verdicts:
        if v.bad and not v.caught:
            late = "never acted" if v.act is None else f"acted at {v.act.step}: {v.act.said}"
            yield f"{name} missed {v.name}, {v.ending}, fault {v.begin}, due {v.deadline}: {late}"
        for event in v.false_acts:
            yield f"{name} false {v.name}, step {event.step}, {event.kind}: {event.said}"
        if v.onset_right is False and v.act is not None:
            onset = f"onset {v.act.onset} of the act at {v.act.step}"
            yield f"{name} onset {v.name}, {v.act.kind}: {onset}, damage began at {v.begin}"


def to_json(found: dict[str, list[Verdict]]) -> str:
    return json.dumps(
        {
            name: {
                "all": dataclasses.asdict(summarise(verdicts)),
                "families": {
                    family: dataclasses.asdict(summarise(group))
                    for family, group in by_family(verdicts).items()
                },
            }
            for name, verdicts in found.items()
        },
        indent=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.judge")
    parser.add_argument("--families", choices=("tune", "test", "all"), default="tune")
    parser.add_argument("--detector", action="append", choices=tuple(DETECTORS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list-misses", action="store_true")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2)
    asked = parser.parse_args()
    if absent := missing(asked.families):
        # Here, not in a process of the pool: one that exits there is waited for without end.
        raise SystemExit(f"no {absent[0]}: make it with `python -m benchmarks.detection.generate`")
    since = time.monotonic()
    names = tuple(asked.detector or DETECTORS)
    found = judge_all(asked.families, names, asked.processes)
    print(to_json(found) if asked.json else table(found))
    if asked.list_misses:
        for name, verdicts in found.items():
            print("\n".join(misses(name, verdicts)), file=sys.stderr if asked.json else sys.stdout)
    print(f"{time.monotonic() - since:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
