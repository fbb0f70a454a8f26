"""Makes the corpus: trains the small models of the plan, keeps what a monitor would have seen."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from itertools import groupby

import numpy as np

from benchmarks.detection.plan import recipes
from benchmarks.detection.recipe import Recipe
from benchmarks.detection.trace import Trace, corpus_file, write


def run(recipe: Recipe) -> list[Trace]:
    """The traces of one run, one a player."""
    import torch

    from benchmarks.detection import tested_models, tuned_models
    from benchmarks.detection.training import train

    torch.set_num_threads(1)
    seats = train(recipe, {**tuned_models.TASKS, **tested_models.TASKS}[recipe.family])
    fault = recipe.fault
    return [
        Trace(
            name=recipe.name + (f"/{player}" if player else ""),
            family=recipe.family,
            kind="healthy" if fault is None else fault.kind,
            norm=np.array(seat.norms, dtype=np.float32),
            loss=np.array(seat.losses, dtype=np.float32),
            healthy=fault is None,
            begin=None if fault is None else fault.begin,
            notes=_notes(recipe, seat.clipped),
        )
        for player, seat in seats.items()
    ]


def _notes(recipe: Recipe, clipped: int) -> dict[str, object]:
    fault = recipe.fault
    return {
        "optimizer": recipe.optimizer,
        "clip": recipe.clip,
        "clipped": clipped,
        "schedule": recipe.schedule,
        "float16": recipe.scale is not None,
        "nan_batches": list(recipe.nan_batches),
        "fault_at": None if fault is None else fault.at,
        "fault_size": None if fault is None else fault.size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.generate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--fresh", action="store_true", help="also what is there already")
    asked = parser.parse_args()
    since = time.monotonic()
    # Forked children of a process that has used torch's threads hang; these start afresh.
    with multiprocessing.get_context("spawn").Pool(asked.processes) as pool:
        for family, plan in groupby(recipes(asked.seed), key=lambda recipe: recipe.family):
            # A family is written when it is whole, so a generation that was cut off goes on there.
            if corpus_file(family).exists() and not asked.fresh:
                continue
            found: list[Trace] = []
            for number, traces in enumerate(pool.imap(run, plan), 1):
                found += traces
                took = time.monotonic() - since
                say = f"\r{family}: run {number}, {took:.0f} s since the start   "
                print(say, end="", file=sys.stderr, flush=True)
            write(found, corpus_file(family))
            steps = sum(len(trace.norm) for trace in found if trace.healthy)
            print(f"\r{family}: {len(found)} traces, {steps} healthy steps, at {took:.0f} s ")


if __name__ == "__main__":
    main()
