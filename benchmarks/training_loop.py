"""What a run costs a training: its loop, its saves, its rollbacks.

    python benchmarks/training_loop.py [--device cuda] [--json] [--only loop saves stall rollback]

loop      the same training under hpckit.attach() and hand-written in plain PyTorch (shuffled
          loader, AdamW, clip_grad_norm_, a schedule that moves each step), 25 steps by turns: in
          each of hpckit's is one copy of the state into memory
saves     hpckit's loop with a checkpoint every 100 steps, against the same without, 100 steps by
          turns; a turn is over when all of it is on the disk
stall     how long the loop is held by a save, against torch.save of the same state
rollback  from the incident to the next applied step, in ordinary steps; the state is in memory

A ratio of turns is that of their summed times; of `loop` without the tenth of the pairs in which
the machine was slowest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpckit.monitor.incident import Incident
from hpckit.train.attaching import attach
from tests.train.bare import bare_run, environment

# Width, depth and batch: some 1e5, 1e6 and 1e7 parameters, steps of 1 to 60 ms on one core.
SIZES = {"1e5": (128, 6, 64), "1e6": (416, 6, 128), "1e7": (1296, 6, 128)}
SECONDS = float(os.environ.get("SECONDS", "20"))
# One snapshot in memory falls into each turn, where at least eight fit.
TURN = 25
SAVE_TURN = 100
# After these what is due every 100 steps comes at a turn's beginning.
WARM_UP = 195


def model_of(width: int, depth: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(width, 8))


class Training:
    """A model, its optimizer, schedule and data."""

    def __init__(self, width: int, depth: int, batch: int, device: str) -> None:
        self.model = model_of(width, depth).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        data = torch.randn(64 * batch, width)
        targets = torch.randint(0, 8, (64 * batch,))
        dataset = torch.utils.data.TensorDataset(data, targets)
        self.loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)
        self.device = device

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = (part.to(self.device) for part in batch)
        return nn.functional.cross_entropy(self.model(x), y)

    def plain(self) -> Iterator[None]:
        while True:
            for batch in self.loader:
                loss = self.loss(batch)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.schedule.step()
                yield

    def watched(self, run: Any) -> Iterator[None]:
        run.register(model=self.model, optimizer=self.optimizer, schedule=self.schedule, clip=1.0)
        for batch in run.batches(self.loader, epochs=10**9):
            loss = self.loss(batch)
            self.optimizer.zero_grad()
            loss.backward()
            run.step(self.optimizer, loss=loss)
            self.schedule.step()
            yield


def attached(folder: Path, **spec: Any) -> Any:
    """A session in a run of its own."""
    bare_run(folder, **spec)
    before = dict(os.environ)
    os.environ.update(environment(folder))
    try:
        return attach()
    finally:
        os.environ.clear()
        os.environ.update(before)


def turns(
    ways: dict[str, Iterator[None]],
    device: str,
    number: int,
    settle: Callable[[str], None] = lambda name: None,
) -> dict[str, list[float]]:
    """Time so many steps of each way, again and again; `settle` is a turn's end, and timed."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name, steps in ways.items():
        for _ in range(WARM_UP):
            next(steps)
        settle(name)
    until = time.perf_counter() + SECONDS * len(ways)
    while time.perf_counter() < until:
        for name, steps in ways.items():
            began = time.perf_counter()
            for _ in range(number):
                next(steps)
            if device != "cpu":
                torch.cuda.synchronize()
            settle(name)
            times[name].append(time.perf_counter() - began)
    return times


def ratio(ours: list[float], theirs: list[float], *, slowest: float = 0.0) -> float:
    """Of the sums; left out, in pairs, are the slowest."""
    pairs = sorted(zip(ours, theirs, strict=True), key=sum)
    kept = pairs[: max(1, round(len(pairs) * (1 - slowest)))]
    return sum(a for a, _ in kept) / sum(b for _, b in kept)


def loop(device: str, folder: Path) -> Iterator[dict[str, Any]]:
    for name, size in SIZES.items():
        session = attached(folder / f"loop-{name}")
        ways = {
            "hpckit": Training(*size, device).watched(session),
            "plain": Training(*size, device).plain(),
        }
        times = turns(ways, device, TURN)
        session.close()
        step_ms = 1e3 * statistics.median(times["plain"]) / TURN
        found = ratio(times["hpckit"], times["plain"], slowest=0.1)
        yield {"figure": "loop", "parameters": name, "step_ms": step_ms, "ratio": found}


def saves(device: str, folder: Path) -> Iterator[dict[str, Any]]:
    for name, size in SIZES.items():
        number, found = saved(Training(*size, device), Training(*size, device), folder / name)
        yield {"figure": "saves", "parameters": name, "saves": number, "ratio": found}


def saved(ours: Training, other: Training, folder: Path) -> tuple[int, float]:
    """How many checkpoints were written in one's turns, and what they took."""
    with_saves = attached(folder / "with", checkpoint={"every": "100 steps"})
    without = attached(folder / "without", checkpoint={"every": "100d"})
    seen: list[set[Path]] = []

    def settle(way: str) -> None:
        (with_saves if way == "with" else without)._kept.saver.wait()
        if way == "with":
            seen.append(set(with_saves.around.store.folder.glob("*/manifest.json")))

    ways = {"with": ours.watched(with_saves), "without": other.watched(without)}
    times = turns(ways, ours.device, SAVE_TURN, settle)
    for session in (with_saves, without):
        session.close()
    return len(set().union(*seen) - seen[0]), ratio(times["with"], times["without"])


def stall(device: str, folder: Path) -> Iterator[dict[str, Any]]:
    session = attached(folder / "stall", checkpoint={"every": "100d"})
    training = Training(4096, 6, 4, device)
    steps = training.watched(session)
    for _ in range(4):
        next(steps)
    numbers = sum(each.numel() for each in training.model.parameters())
    # Memory for snapshots is touched on a thread; by now a training has done some hundred steps.
    time.sleep(20)
    held, theirs = [], []
    for _ in range(4):
        session.stepper.step_number += 1
        began = time.perf_counter()
        session._keep("every")
        held.append(time.perf_counter() - began)
        session._kept.saver.wait()
        state = {"model": training.model.state_dict(), "opt": training.optimizer.state_dict()}
        began = time.perf_counter()
        torch.save(state, folder / "plain.pt")
        theirs.append(time.perf_counter() - began)
        (folder / "plain.pt").unlink()
    session.close()
    yield {
        "figure": "stall",
        "parameters": f"{numbers:.1e}",
        "held_s": [round(each, 3) for each in held],
        "torch_save_s": [round(each, 3) for each in theirs],
        "ratio": statistics.median(held) / statistics.median(theirs),
    }


def rollback(device: str, folder: Path) -> Iterator[dict[str, Any]]:
    for name, size in SIZES.items():
        session = attached(folder / f"rollback-{name}", heal={"explosion": {"limit": 100}})
        training = Training(*size, device)
        steps = training.watched(session)
        times, healed = [], []
        for _ in range(5):
            for _ in range(260):
                began = time.perf_counter()
                next(steps)
                times.append(time.perf_counter() - began)
            step = session.step_number
            incident = Incident(
                kind="explosion", step=step, answer="act", said="made up", optimizer="main",
                onset=step,
            )  # fmt: skip
            began = time.perf_counter()
            real = session._acting
            # Ends the pass, goes back, opens the data again, and does the next step.
            pending = iter((1,))

            def once(incidents: Any, real: Any = real, pending: Any = pending,
                     incident: Any = incident) -> Any:  # fmt: skip
                return incident if next(pending, None) else real(incidents)

            session._acting = once
            next(steps)
            healed.append(time.perf_counter() - began)
            session._acting = real
        session.close()
        usual = statistics.median(times)
        yield {
            "figure": "rollback",
            "parameters": name,
            "step_ms": 1e3 * usual,
            "healed_ms": [round(1e3 * each, 1) for each in healed],
            "ratio": statistics.median(healed) / usual,
        }


FIGURES = {"loop": loop, "saves": saves, "stall": stall, "rollback": rollback}
WANTED = {"loop": 1.02, "saves": 1.03, "stall": 0.05, "rollback": 10.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(FIGURES), default=list(FIGURES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for figure in args.only:
            for each in FIGURES[figure](args.device, Path(folder)):
                found.append(each)
                if not args.json:
                    rest = "  ".join(f"{k} {_short(v)}" for k, v in each.items() if k != "figure")
                    print(f"{figure:9} {rest}  (wanted: at most {WANTED[figure]})", flush=True)
    if args.json:
        json.dump(found, sys.stdout, indent=1)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
