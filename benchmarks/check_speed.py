"""How long reading a spec of 2,000 lines takes, against yaml.safe_load of the same file."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from hpckit.spec import load_spec

LINES = 2_000
ROUNDS = 15


def big_spec() -> str:
    """A spec as a large sweep has it: many parameters in groups, and long lists to vary."""
    lines = [
        "name: large-sweep",
        'program: {command: "python train.py --lr {params.lr}", processes: per_gpu}',
        "resources: {gpus_per_node: 4, memory: 64G, time: 24h}",
        "checkpoint: {every: 10m, before_end: 5m}",
        "params:",
        "  lr: 2e-4",
    ]
    group = 0
    while len(lines) < LINES * 3 // 4:
        lines.append(f"  block_{group:03d}:")
        for number in range(12):
            value = (f"{number}e-{group % 5 + 1}", f"word_{number}", "true", str(number))[
                number % 4
            ]
            lines.append(f"    option_{number}: {value}  # why it is so")
        lines.append(f"    widths: [{group}, {group + 1}, {group + 2}]")
        group += 1
    lines += ["sweep:", "  zip:"]
    while len(lines) < LINES - 50:
        lines.append(f"    block_{len(lines) % 100:03d}.swept_{len(lines)}:")
        lines += [f"    - {row * 0.01 + 0.001:.3f}" for row in range(40)]
    lines += ["  seeds:", *(f"  - {seed}" for seed in range(LINES - len(lines) - 1))]
    return "\n".join(lines) + "\n"


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure() -> dict[str, float]:
    """Median seconds of each way, measured in turn so that a busy machine hits all alike."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(big_spec(), encoding="utf-8")
        ways: dict[str, Callable[[], object]] = {
            "hpckit.load_spec": lambda: load_spec(path),
            "yaml.safe_load": lambda: yaml.safe_load(path.read_text(encoding="utf-8")),
        }
        if yaml.__with_libyaml__:
            ways["yaml.CSafeLoader"] = lambda: yaml.load(
                path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader
            )
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, call in ways.items():
                taken[name].append(timed(call))
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    found = measure()
    print(f"a spec of {len(big_spec().splitlines())} lines, median of {ROUNDS}")
    for name, seconds in found.items():
        print(f"  {name:18} {seconds * 1000:8.1f} ms")
    for rival in list(found)[1:]:
        print(f"hpckit / {rival}: {found['hpckit.load_spec'] / found[rival]:.2f}")


if __name__ == "__main__":
    main()
