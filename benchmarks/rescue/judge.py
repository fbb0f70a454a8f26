"""Runs every kind of training under every policy and prints what became of it.

    python -m benchmarks.rescue.judge [--kinds ...] [--policies ...] [--seeds 10] [--healthy]

`plain`, `hpckit` and the oracle have all seeds, the others the first three. A kind's oracle is the
right settings from the start; all other policies begin with the bad ones. `unchanged` is hpckit's
rollback without its changes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterable

import torch

from benchmarks.rescue.inside import UNCHANGED, train_inside
from benchmarks.rescue.kinds import KINDS
from benchmarks.rescue.loop import Outcome, train
from benchmarks.rescue.rivals import GUARDS
from benchmarks.rescue.training import Kind

ORACLE, PLAIN, HPCKIT = "oracle", "plain", "hpckit"
INSIDE = {"unchanged": UNCHANGED, HPCKIT: {}}
POLICIES = (ORACLE, *GUARDS, *INSIDE)
WITHIN = 1.1
RIVALS_SEEDS = 3

# By policy: an outcome a seed.
Found = dict[str, list[Outcome]]


def run(kind: Kind, policy: str, seed: int, *, healthy: bool = False) -> Outcome:
    """One training from a seed."""
    began = time.perf_counter()
    right = healthy or policy == ORACLE
    training = kind.build(seed, kind.oracle if right else kind.bad)
    if policy in INSIDE:
        outcome = train_inside(training, INSIDE[policy])
    else:
        outcome = train(training, GUARDS[PLAIN if policy == ORACLE else policy])
    outcome.seconds = time.perf_counter() - began
    return outcome


def run_kind(name: str, policies: Iterable[str], seeds: int, *, healthy: bool) -> Found:
    """Every policy on a kind."""
    found: Found = {}
    for policy in policies:
        full = policy in (ORACLE, PLAIN, HPCKIT)
        for seed in range(seeds if full else min(seeds, RIVALS_SEEDS)):
            outcome = run(KINDS[name], policy, seed, healthy=healthy)
            found.setdefault(policy, []).append(outcome)
            print(
                f"{name} {policy} {seed}: {outcome.final:.4g}, {outcome.rollbacks} rollbacks, "
                f"{outcome.seconds:.1f} s {outcome.stopped}",
                file=sys.stderr,
                flush=True,
            )
    return found


def is_rescued(outcome: Outcome, oracle: Outcome) -> bool:
    """Whether it ended within 10% of what was possible; a NaN did not."""
    return outcome.final <= WITHIN * oracle.final


def table(name: str, found: Found) -> str:
    """A kind's policies, a line each."""
    lines = [
        f"{name:16}{'rescued':>9}{'median':>9}{'of oracle':>11}{'worst':>8}"
        f"{'rollbacks':>11}{'most':>6}{'replayed':>10}{'most':>6}{'stopped':>9}"
    ]
    for policy, outcomes in found.items():
        oracles = found[ORACLE]
        rescued = sum(is_rescued(a, b) for a, b in zip(outcomes, oracles, strict=False))
        ratios = [a.final / b.final for a, b in zip(outcomes, oracles, strict=False)]
        # A NaN is worse than any loss.
        ratios = [float("inf") if ratio != ratio else ratio for ratio in ratios]
        finals = [float("inf") if each.final != each.final else each.final for each in outcomes]
        steps = [steps for each in outcomes for steps in each.replayed]
        lines.append(
            f"  {policy:14}{rescued:>5}/{len(outcomes):<3}{statistics.median(finals):>9.4g}"
            f"{statistics.median(ratios):>11.3g}{max(ratios):>8.3g}"
            f"{statistics.mean(each.rollbacks for each in outcomes):>11.1f}"
            f"{max(each.rollbacks for each in outcomes):>6}"
            f"{statistics.median(steps or [0]):>10.0f}{max(steps, default=0):>6}"
            f"{sum(bool(each.stopped) for each in outcomes):>9}"
        )
    return "\n".join(lines)


def healthy_table(name: str, found: Found) -> str:
    """With the right settings: what a policy meddled with, and whether its end is plain's."""
    lines = [
        f"{name:16}{'bit-equal':>15}{'median':>9}{'interventions':>15}{'worst':>8}"
        "  (steps; of hpckit each rollback counts once)"
    ]
    for policy, outcomes in found.items():
        pairs = list(zip(outcomes, found[PLAIN], strict=False))
        equal = sum(a.final == b.final for a, b in pairs)
        # The right settings' own clip is no meddling.
        own = [0 if policy in INSIDE else b.clipped for _, b in pairs]
        meddled = [
            a.clipped + a.skipped + a.rollbacks - each
            for (a, _), each in zip(pairs, own, strict=True)
        ]
        lines.append(
            f"  {policy:14}{equal:>10}/{len(pairs):<4}"
            f"{statistics.median(each.final for each in outcomes):>9.4g}"
            f"{statistics.mean(meddled):>15.1f}{max(a.final / b.final for a, b in pairs):>8.3g}"
        )
    return "\n".join(lines)


def rescued_in_all(kinds: dict[str, Found]) -> str:
    """A line a policy, over all kinds."""
    lines = ["all kinds"]
    for policy in next(iter(kinds.values())):
        pairs = [
            pair
            for found in kinds.values()
            for pair in zip(found[policy], found[ORACLE], strict=False)
        ]
        rescued = sum(is_rescued(*pair) for pair in pairs)
        far = [steps for outcome, _ in pairs for steps in outcome.replayed]
        said = f"  {policy:14}{rescued:>5}/{len(pairs):<3} {rescued / len(pairs):.0%}"
        if far:
            near = sum(steps <= 150 for steps in far)
            said += f", {len(far)} rollbacks, {near} of at most 150 steps"
            undone = [steps for outcome, _ in pairs for steps in outcome.undone]
            said += f" ({sum(steps <= 150 for steps in undone)} undo no more updates than that)"
        lines.append(said)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rescue.judge")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--healthy", action="store_true", help="right settings for all policies")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    # What all others are measured by comes first.
    measure = PLAIN if asked.healthy else ORACLE
    others = [each for each in asked.policies if each not in (measure, ORACLE)]
    kinds: dict[str, Found] = {}
    for name in asked.kinds:
        kinds[name] = run_kind(name, [measure, *others], asked.seeds, healthy=asked.healthy)
        if not asked.json:
            print((healthy_table if asked.healthy else table)(name, kinds[name]), flush=True)
    if asked.json:
        rows = {
            name: {
                policy: [dataclasses.asdict(each) for each in outcomes]
                for policy, outcomes in found.items()
            }
            for name, found in kinds.items()
        }
        print(json.dumps(rows, indent=1))
    elif not asked.healthy:
        print(rescued_in_all(kinds))


if __name__ == "__main__":
    main()
