"""A run that is ended again and again, and its twin that nobody touched: nothing may differ.

twin = Twin.of(nursery, folder, "nested")
trial = killed(nursery, folder, "nested", twin, kills=5, seed=0)
assert not trial.wrong
"""

from __future__ import annotations

import json
import random
import re
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hpckit.ledger import Ledger
from hpckit.monitor.reading import NORM, Reading
from hpckit.monitor.readings.reader import merged, read_readings
from tests.train.bare import bare_run
from tests.train.kill_lives import COUNTED, LOOP, NEVER, SAVER, Death, Life, Nursery
from tests.train.kill_trainings import VARIANTS

# What hpckit says when a state could not be read or written.
TROUBLE = ("damaged", "failed", "could not", "cannot", "not finite")
TERMINATED = 143
TOLD = re.compile(r"told to end: saving at step (\d+)")
# Readings that differ from launch to launch, that each says once, or learns anew.
OWN = ("time/", "memory/", "progress/", "device/", "schedule/", "data/size", "data/expected")
# How a process may end, by what was done to it.
CODES = {
    "nothing": {0},
    "kill": {0, -signal.SIGKILL},
    "term": {0, -signal.SIGTERM, TERMINATED},
    "raise": {0, 1},
    "exit": {0, 1},
}
# Of a hundred deaths.
KINDS = {"clock": 40, "save": 25, "loop": 10, "term": 8, "term to all": 4, "term in a save": 3}
KINDS |= {"raise": 6, "exit": 4}
# Of an uninterrupted life, so that most deaths come before a run's end.
SHARE = 0.5
# A run that never comes to its end is given up.
MOST_LIVES = 60


@dataclass(frozen=True, kw_only=True)
class Twin:
    """The same training, uninterrupted."""

    run: Path
    life: Life
    steps: dict[int, dict[str, Any]]

    @classmethod
    def of(cls, nursery: Nursery, folder: Path, variant: str) -> Twin:
        run = new_run(folder, variant)
        life = nursery.live(
            run, variant, VARIANTS[variant].ranks, attempt=1, launch=1, death=COUNTED
        )
        assert life.is_done, life.log
        return cls(run=run, life=life, steps=by_step(curve(run)))


@dataclass(kw_only=True)
class Trial:
    """What was done to a run, and what is wrong with it."""

    run: Path
    ends: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(self.ends.values())


def new_run(folder: Path, variant: str) -> Path:
    return bare_run(folder, **VARIANTS[variant].spec)


def killed(
    nursery: Nursery, folder: Path, variant: str, twin: Twin, *, kills: int, seed: int
) -> Trial:
    """End a training so many times, each time at another moment, and let it come to its end."""
    chance = random.Random(f"{variant} {seed}")
    trial = Trial(run=new_run(folder, variant))
    attempt, launch = 1, 1
    while trial.lives < MOST_LIVES:
        death = some_death(chance, variant, twin.life) if trial.kills < kills else NEVER
        best = newest(trial.run)
        life = nursery.live(
            trial.run, variant, VARIANTS[variant].ranks, attempt=attempt, launch=launch, death=death
        )
        trial.lives += 1
        trial.wrong += told_wrong(trial.run, life, death, attempt, launch, best)
        if life.is_done or death == NEVER:
            break
        trial.ends[kind_of(death)] += 1
        again = chance.random() < 0.3
        attempt, launch = (attempt, launch + 1) if again else (attempt + 1, 1)
    trial.wrong += compared(trial.run, twin)
    return trial


def some_death(chance: random.Random, variant: str, twin: Life) -> Death:
    """A moment of a life, by the clock, by a line on one of its threads, or by a step."""
    ranks = VARIANTS[variant].ranks
    rank = chance.choice([None, *range(ranks)]) if ranks > 1 else None
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    if kind in ("clock", "term", "term to all"):
        after = chance.uniform(0.0, SHARE * twin.seconds)
        by = "kill" if kind == "clock" else "term"
        return Death(by=by, after_s=after, rank=rank, family=kind == "term to all")
    if kind in ("raise", "exit"):
        # On all ranks: what one of them does alone, the others only notice as a lost connection.
        return Death(by=kind, step=chance.randrange(1, 100))
    thread = LOOP if kind == "loop" else SAVER
    line = chance.randrange(1, max(2, round(SHARE * twin.lines.get(thread, 1))))
    by = "term" if kind == "term in a save" else "kill"
    return Death(by=by, thread=thread, line=line, rank=rank if rank is None else 0)


def kind_of(death: Death) -> str:
    """In words."""
    if death.by in ("raise", "exit"):
        return "exception"
    where = {SAVER: "in a save", LOOP: "in the loop", None: "any time"}[death.thread]
    return f"{'SIGKILL' if death.by == 'kill' else 'SIGTERM'}, {where}"


# What must hold.


def newest(run: Path) -> int:
    """The step of the newest whole checkpoint, by the files alone; -1 where there is none."""
    manifests = run.glob("checkpoints/*/manifest.json")
    return max((json.loads(path.read_text())["step"] for path in manifests), default=-1)


def told_wrong(
    run: Path, life: Life, death: Death, attempt: int, launch: int, best: int
) -> list[str]:
    """What one life did that it should not have done."""
    where = f"{run.name} a{attempt}-l{launch}"
    wrong = [
        f"{where}: {line}"
        for line in life.log.splitlines()
        if line.startswith("hpckit:") and any(word in line for word in TROUBLE)
    ]
    for event in Ledger(run / "ledger").events():
        about = event.data
        if event.kind == "incident":
            wrong.append(f"{where}: {about['incident']}")
        is_ours = (about.get("attempt"), about.get("launch")) == (attempt, launch)
        if event.kind == "resumed" and is_ours and max(best, 0) > about["step"]:
            wrong.append(f"{where}: went on from step {about['step']}, there was one of {best}")
    # A rank that loses another ends with an error of its own.
    is_alone = len(life.codes) == 1 or not set(life.codes) & {-signal.SIGKILL, -signal.SIGTERM}
    if is_alone and not set(life.codes) <= CODES[death.by]:
        wrong.append(f"{where}: {death.by}, and ended with {life.codes}: {life.log[-2000:]}")
    if set(life.codes) == {TERMINATED}:
        # Who is told after the last step has no more to say.
        wrong += [
            f"{where}: told to end at step {step}, and saved at {newest(run)}"
            for step in TOLD.findall(life.log)
            if int(step) != newest(run)
        ]
    return wrong


def compared(run: Path, twin: Twin) -> list[str]:
    """What differs between a run and its twin, byte by byte."""
    wrong = [f"{run.name}: {path.name}" for path in run.glob("checkpoints/*.damaged*")]
    for path in sorted(twin.run.glob("final-*.pt")):
        if not (run / path.name).exists():
            wrong.append(f"{run.name}: no {path.name}")
            continue
        ours, theirs = (
            torch.load(each / path.name, weights_only=False) for each in (run, twin.run)
        )
        wrong += [f"{run.name}: {path.name}: {each}" for each in differences(ours, theirs)[:5]]
    wrong += best_wrong(run)
    readings = list(curve(run))
    steps = [reading.step for reading in readings]
    if len(set(steps)) < len(steps):
        wrong.append(f"{run.name}: steps that are twice in the readings")
    ours = by_step(readings)
    missing = sorted(set(twin.steps) - set(ours))
    if missing:
        wrong.append(f"{run.name}: {len(missing)} steps without a reading: {missing[:8]}")
    wrong += [
        f"{run.name}: reading of step {step}: {each}"
        for step in sorted(ours)
        for each in differences(ours[step], twin.steps.get(step))[:3]
    ][:8]
    return wrong + left_branches(run, twin)


def best_wrong(run: Path) -> list[str]:
    """The best value's state must be there, whatever was deleted."""
    best = torch.load(run / "final-0.pt", weights_only=False)["best"]["values"]
    manifests = [json.loads(each.read_text()) for each in run.glob("checkpoints/*/manifest.json")]
    kept = [each["metrics"] for each in manifests if each["best"]]
    return [] if best in kept else [f"{run.name}: best is {best}, and of the best are kept {kept}"]


def left_branches(run: Path, twin: Twin) -> list[str]:
    """Also what was done before a kill and once more after it was the same."""
    wrong = []
    for folder in folders(run):
        for reading in read_readings(folder):
            theirs = twin.steps.get(reading.step, {})
            ours = {k: v for k, v in plain(reading).items() if reading.step in twin.steps}
            # What is said after the last step may not have been said any more.
            found = differences(ours, {k: v for k, v in theirs.items() if k in ours})
            wrong += [f"{run.name}: {folder}: step {reading.step}: {each}" for each in found[:2]]
    return wrong[:4]


def folders(run: Path) -> list[Path]:
    return sorted(
        run.glob("attempts/*/readings/launch-*"),
        key=lambda path: (path.parts[-3], int(path.name.removeprefix("launch-"))),
    )


def curve(run: Path) -> list[Reading]:
    return list(merged(folders(run)))


def by_step(readings: list[Reading]) -> dict[int, dict[str, Any]]:
    found = {reading.step: plain(reading) for reading in readings}
    last = max(found, default=0)
    if found and not any(name.startswith(NORM) for name in found[last]):
        # What was said after the last step: where a launch had only that to say, it stands apart.
        found[last - 1] = {**found.get(last - 1, {}), **found.pop(last)}
    return found


def plain(reading: Reading) -> dict[str, Any]:
    """What a reading holds that must be the same in every launch."""
    # But not single parameters' norms: those of a step that was in flight are dropped.
    return {k: v for k, v in reading.values.items() if not k.startswith(OWN)}


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where two trees differ, to the last bit, NaN and all."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        same = same and ours.detach().numpy().tobytes() == theirs.detach().numpy().tobytes()
        return [] if same else [f"{where} differs"]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [f"{where}.{key}: only in one" for key in ours.keys() ^ theirs.keys()]
        shared = [key for key in theirs if key in ours]
        return keys + [
            found
            for key in shared
            for found in differences(ours[key], theirs[key], f"{where}.{key}")
        ]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        if len(ours) != len(theirs):
            return [f"{where}: {len(ours)} and {len(theirs)} entries"]
        return [
            found
            for index, (a, b) in enumerate(zip(ours, theirs, strict=True))
            for found in differences(a, b, f"{where}[{index}]")
        ]
    return [] if repr(ours) == repr(theirs) else [f"{where}: {ours!r} and {theirs!r}"]
