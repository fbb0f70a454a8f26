"""The same training many times over: three sets of settings, without hpckit and with it.

    python compare.py [--spec incident.yaml] [--seeds 0 1 ...] [--settings "as it was" ...]
                      [--ways plain hpckit] [--json results.json]

Without hpckit it is a plain loop: backward, clip_grad_norm_, step. All are judged by the same
validation loss, that of the original weights with a penalty that has a slope everywhere, and by
what the right fix comes to from the same seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BLAMED = "cascade_stages.2.output_proj.weight"
AS_IT_WAS, MADE, RIGHT = "as it was", "the fix that was made", "the right fix"
SETTINGS: dict[str, tuple[str, ...]] = {
    AS_IT_WAS: (),
    MADE: ("params.loss.correlation=0.1", "params.penalty.limit=0.95", "params.clip.generator=5.0"),
    RIGHT: (
        "params.cascade={residuals: [0.1, 0.1, 1], bounded: true}",
        "params.penalty={form: tangent, limit: 0.9, floor: 1e-3}",
    ),
}
PLAIN, HPCKIT = "plain", "hpckit"
# So many first steps' median is the usual norm.
FIRST = 100
# Times the usual that no step should come to before something is done.
FAR = 1000.0

Row = dict[str, Any]


def plain(spec: str, seed: int, changes: Sequence[str]) -> Row:
    """One training by a plain loop, in this process."""
    import torch

    sys.path.insert(0, str(HERE))
    from train import Training

    from hpckit.spec import load_spec

    class Plain(Training):
        progress = False

        def build(self) -> None:
            super().build()
            self.seen: list[tuple[float, str]] = []

        def update(self, optimizer: Any, loss: Any, batches: Sequence[Any]) -> None:
            optimizer.zero_grad(set_to_none=True)
            self._whole(loss(batches[0])).backward()
            name = "generator" if optimizer is self.generator else "discriminator"
            every = [each for group in optimizer.param_groups for each in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(every, self.params["clip"][name])
            if name == "generator":
                self.seen.append((float(norm), self.worst()))
            optimizer.step()

        def worst(self) -> str:
            norms = {
                name: float(each.grad.norm())
                for name, each in self.model.named_parameters()
                if each.grad is not None
            }
            return max(norms, key=norms.__getitem__)

        def validate(self) -> dict[str, float]:
            self.last = super().validate()
            return self.last

    params = load_spec(HERE / spec, tuple(changes), ()).to_json()["params"]
    training = Plain({**params, "seed": seed})
    training.run()
    norms = [norm for norm, _ in training.seen]
    epoch = len(training.loader)
    return {
        **_of_norms(norms),
        "loss": training.last["loss"],
        "worst": training.seen[norms.index(max(norms))][1],
        "epochs": [statistics.fmean(norms[at : at + epoch]) for at in range(0, len(norms), epoch)],
    }


def healed(spec: str, seed: int, changes: Sequence[str]) -> Row:
    """One training by `hpckit run`."""
    hpckit = [sys.executable, "-m", "hpckit"]
    words = [word for each in (f"params.seed={seed}", *changes) for word in ("-s", each)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="creative-agent-") as root:
        at = ["--root", root]
        subprocess.run(
            [*hpckit, "run", spec, *at, *words], cwd=HERE, env=environ, capture_output=True
        )
        shown = subprocess.run([*hpckit, "show", *at, "--json"], capture_output=True, check=True)
        told = json.loads(shown.stdout)
        rows = list(_rows(Path(told["dir"])))
    losses = [float(row["val/loss"]) for row in rows if "val/loss" in row]
    acted = [each for each in told["incidents"] if each["plan"] in ("rollback", "stop")]
    signs = [each["step"] for each in told["incidents"] if each["parameter"] == BLAMED]
    return {
        **_of_norms([float(row[NORM]) for row in _first_branch(rows)]),
        "loss": losses[-1] if told["state"] == "done" else math.nan,
        "state": told["state"],
        "reason": told["reason"],
        "told": signs[0] if signs else None,
        "acted": [
            {key: each[key] for key in ("step", "kind", "plan", "parameter", "resumed_step")}
            for each in acted
        ],
    }


NORM = "grad/norm/generator"


def _rows(folder: Path) -> Iterator[Row]:
    """Everything that was measured, in order of time."""
    for path in sorted(folder.glob("attempts/*/readings/*/*.jsonl")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def _first_branch(rows: Sequence[Row]) -> Iterator[Row]:
    """Up to where the run went back for the first time."""
    last = -1
    for row in rows:
        if NORM not in row:
            continue
        if row["step"] < last:
            return
        last = row["step"]
        yield row


def _of_norms(norms: Sequence[float]) -> Row:
    return {"usual": statistics.median(norms[:FIRST]), "largest": max(norms)}


def one(given: argparse.Namespace, seed: int, settings: str, way: str) -> Row:
    """One training, in a process of its own."""
    began = time.perf_counter()
    if way == HPCKIT:
        found = healed(given.spec, seed, SETTINGS[settings])
    else:
        command = [sys.executable, __file__, "--spec", given.spec, "--settings", settings]
        done = subprocess.run(
            [*command, "--in-this-process", str(seed)], capture_output=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
    row = {"seed": seed, "settings": settings, "way": way, **found}
    row["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def table(rows: Sequence[Row]) -> str:
    """A line for each set of settings and way."""
    right = {
        row["seed"]: row["loss"] for row in rows if (row["settings"], row["way"]) == (RIGHT, PLAIN)
    }
    lines = [
        f"{'settings':22} {'way':7} {'ended':>6} {'loss':>6} {'of the right fix, worst':>24}"
        f" {'largest norm':>13} {'over usual':>11}  rollbacks"
    ]
    for settings, way in dict.fromkeys((row["settings"], row["way"]) for row in rows):
        mine = [row for row in rows if (row["settings"], row["way"]) == (settings, way)]
        ratios = [row["loss"] / right[row["seed"]] for row in mine if row["seed"] in right]
        ended = sum(row.get("state", "done") == "done" for row in mine)
        times = statistics.median(row["largest"] / row["usual"] for row in mine)
        backs = [sum(each["plan"] == "rollback" for each in row.get("acted", ())) for row in mine]
        lines.append(
            f"{settings:22} {way:7} {ended:>3}/{len(mine):<2} "
            f"{statistics.median(row['loss'] for row in mine):>6.3f}"
            f" {max(ratios, default=math.nan):>24.3f}"
            f" {statistics.median(row['largest'] for row in mine):>13,.0f} {times:>11,.0f}"
            f"  {', '.join(map(str, backs)) if way == HPCKIT else ''}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spec", default="incident.yaml")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(10)))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--ways", nargs="*", default=[PLAIN, HPCKIT], choices=[PLAIN, HPCKIT])
    parser.add_argument("--json", type=Path, help="Where all that was found is written.")
    parser.add_argument("--in-this-process", type=int, metavar="SEED", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_this_process is not None:
        found = plain(given.spec, given.in_this_process, SETTINGS[given.settings[0]])
        print(json.dumps(found))
        return
    rows = []
    for seed in given.seeds:
        for settings in given.settings:
            for way in given.ways:
                rows.append(one(given, seed, settings, way))
                if given.json is not None:
                    given.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
