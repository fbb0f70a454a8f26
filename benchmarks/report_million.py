"""The report of a run of a million steps: at most 5 s to build, 2 MB, and 1 s to open in Chromium.

The run is written by the project's own writer: two optimizers, six loss components, norms of 40
parameters, a rollback, and one-step spikes that must all be in the page. The rival in the same run
is plotly's HTML export of the very same rows, which is what one would write by hand.

    python -m benchmarks.report_million [--steps 1000000] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpckit.files import write_json
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.columns import read_columns
from hpckit.monitor.readings.reader import merged
from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.run import identity, open_run
from hpckit.spec import spec_from_json

COMPONENTS = ("rms", "stft", "mel", "balance", "correlation", "gan")
PARAMETERS = [f"cascade_stages.{n // 8}.layers.{n % 8}.weight" for n in range(40)]
SPIKES, SPIKE = 40, 5e4
BACK, GROWTH = 1_000, 60
ROUNDS = 5
BUILD_S, SIZE_MB, OPEN_S = 5.0, 2.0, 1.0
WAITING = 15_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=1_000_000)
    options.add_argument("--keep", type=Path)
    options.add_argument("--plotly", type=Path, nargs=2, metavar=("READINGS", "HTML"))
    asked = options.parse_args()
    if asked.plotly:
        rival(*asked.plotly)
        return
    folder = asked.keep or Path(tempfile.mkdtemp())
    try:
        measure(folder, asked.steps)
    finally:
        if asked.keep is None:
            shutil.rmtree(folder)


def measure(folder: Path, steps: int) -> None:
    spikes = make(folder, steps)
    readings = folder / "attempts/001/readings/launch-1"
    rows = len(read_columns([readings]).step)
    size = sum(path.stat().st_size for path in readings.iterdir()) / 1e6
    print(f"{steps} steps: {rows} rows of {size:.0f} MB are kept")
    report, theirs = folder / "report.html", folder / "plotly.html"
    ours = [seconds("hpckit", "report", folder) for _ in range(3)]
    look_for(spikes, report)
    by_plotly = seconds("benchmarks.report_million", "--plotly", readings, theirs)
    megabytes = [path.stat().st_size / 1e6 for path in (report, theirs)]
    opened = [opens(report, ROUNDS), opens(theirs, 1)]
    print("         build    file     open")
    for name, built, mb, shown in (
        ("hpckit", min(ours), megabytes[0], opened[0]),
        ("plotly", by_plotly, megabytes[1], opened[1]),
    ):
        print(f"{name}  {built:6.2f} s {mb:6.2f} MB {shown:6.2f} s")
    ratios = (min(ours) / by_plotly, megabytes[0] / megabytes[1], opened[0] / opened[1])
    print("ratio   " + "  ".join(f"{ratio:8.3f}" for ratio in ratios))
    print(f"all {len(spikes)} spikes are in the report; build {ours}")
    wanted = ((min(ours), BUILD_S), (megabytes[0], SIZE_MB), (opened[0], OPEN_S))
    assert all(value <= most for value, most in wanted), wanted


def rival(readings: Path, out: Path) -> None:
    """What one would write by hand instead of a report: every curve, as one page."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    curves: dict[str, tuple[list[int], list[float]]] = {}
    for each in merged([readings]):
        for name, value in each.values.items():
            steps, values = curves.setdefault(name, ([], []))
            steps.append(each.step)
            values.append(value)
    figure = make_subplots(rows=len(curves), cols=1, subplot_titles=list(curves))
    for row, (name, (steps, values)) in enumerate(curves.items(), start=1):
        figure.add_trace(go.Scattergl(x=steps, y=values, name=name), row=row, col=1)
    figure.update_layout(height=240 * len(curves))
    figure.write_html(out, include_plotlyjs=True)


def seconds(*module: Any) -> float:
    """A fresh interpreter, as a person starts it."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", *map(str, module)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def opens(path: Path, rounds: int) -> float:
    """From the beginning of the navigation to the first frame after all was drawn."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium is not None, "apt-get install chromium"
    drawn = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))"
    taken = []
    with sync_playwright() as player:
        for _ in range(rounds):
            browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1240, "height": 900})
            page.goto(path.resolve().as_uri(), timeout=300_000)
            page.wait_for_function(
                "document.documentElement.dataset.drawn || document.querySelector('.main-svg')",
                timeout=300_000,
            )
            page.evaluate(drawn)
            taken.append(page.evaluate("performance.now()") / 1000)
            browser.close()
    return min(taken)


def make(folder: Path, steps: int) -> dict[int, str]:
    """A run's folder; its spikes' steps, and whose they are."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = spec_from_json({"name": "million", "program": "python train.py", "params": {"lr": 1e-3}})
    write_json(folder / "spec.json", spec.to_json())
    about = identity(run_id="million/1", name="million", scheduler="local", params={"lr": 1e-3})
    write_json(folder / "run.json", about)
    run = open_run(folder)
    assert run is not None
    started, ended = "2026-07-20T10:00:00.000Z", "2026-07-21T10:00:00.000Z"
    run.ledger("submitter").write("submit", chains=[1])
    attempt = run.claim_attempt({"job_id": "1_1", "node": "gpu01", "started": started, "chain": 1})
    write_json(attempt.dir / "ended.json", {"ended": ended, "reason": "done", "exit_code": 0})
    exploded = steps * 6 // 10
    chance = random.Random(0)
    free = [step for step in range(1000, steps - 1000) if abs(step - exploded) > 3 * BACK]
    spikes = {step: chance.choice(("generator", "critic")) for step in chance.sample(free, SPIKES)}
    writer = ReadingsWriter(attempt.dir / "readings" / "launch-1")
    for number, reading in enumerate(course(steps, exploded, spikes)):
        writer.write(reading)
        if number % WAITING == WAITING - 1:
            writer.flush()
    writer.close()
    assert writer.lost == 0
    tell_of_it(run.ledger("attempt-001-launch-1"), exploded)
    run.ledger("worker").write("finished", state="done", reason="done", chain=1, attempt=1)
    return spikes


def tell_of_it(ledger: Any, exploded: int) -> None:
    incident = {
        "kind": "explosion",
        "step": exploded,
        "answer": "act",
        "said": "gradient norm 1e6, 700 times its usual 1.4",
        "sentence": "generator: gradient norm 1e6; worst parameter " + PARAMETERS[-1],
        "parameter": PARAMETERS[-1],
        "value": 1e6,
        "acts": True,
    }
    plan = {"do": "rollback", "changes": {"clip": {"times": 0.5}}, "sentence": "go back"}
    where = {"attempt": 1, "launch": 1, "incident": incident, "plan": plan}
    ledger.write("resumed", attempt=1, launch=1, rollbacks=0, step=0, checkpoint=None)
    ledger.write("incident", **where)
    went = {"step": exploded - BACK, "from_step": exploded + 1, "changed": ["clip 1 -> 0.5"]}
    ledger.write("rollback", **where, rollbacks=1, number=1, checkpoint="memory", **went)


def course(steps: int, exploded: int, spikes: dict[int, str]) -> Iterator[Reading]:
    """All readings in the order in which they come."""
    chance = random.Random(1)
    for step in range(exploded + 1):
        grown = math.exp(max(0, step - exploded + GROWTH) / GROWTH * math.log(1e6))
        yield reading(step, steps, chance, spikes, grown)
    for step in range(exploded - BACK, steps):
        yield reading(step, steps, chance, spikes, 1.0)


def reading(
    step: int, steps: int, chance: random.Random, spikes: dict[int, str], grown: float
) -> Reading:
    noise = [chance.gauss(0.0, 1.0) for _ in range(6)]
    values: dict[str, float] = {}
    for place, optimizer in enumerate(("generator", "critic")):
        norm = 1.4 * math.exp(0.2 * noise[place]) * (grown if place == 0 else 1.0)
        norm = SPIKE + step if spikes.get(step) == optimizer else norm
        values |= {
            f"grad/norm/{optimizer}": norm,
            f"grad/clip/{optimizer}": min(1.0, 2.0 / norm),
            f"grad/gated/{optimizer}": float(norm > 11),
            f"grad/usual/{optimizer}": 1.4 + step // 16 % 100 / 1000,
            f"grad/limit/{optimizer}": 11.2 + step // 16 % 100 / 100,
            f"lr/{optimizer}": 1e-3 * (1 + math.cos(math.pi * step / steps)) / 2,
            f"train/loss/{optimizer}": 2 * steps / (steps + 9 * step) + 0.05 * noise[2 + place],
        }
    for place, component in enumerate(COMPONENTS):
        values[f"train/{component}"] = (1 + place) * (0.3 + 0.02 * noise[place]) * grown**0.2
    values |= {"time/step": 0.08 + 0.002 * noise[4], "time/data": 0.004 + 0.0004 * abs(noise[5])}
    if step % 12 == 0:
        values |= {"memory/gpu": 31.2, "memory/host": 6.1 + step / steps}
    if step % 5000 == 4999:
        values["val/error"] = 0.5 + 0.3 * steps / (steps + 9 * step) + 0.01 * noise[3]
    rows: dict[str, dict[str, float]] = {}
    if step % 100 == 0 or grown > 100:
        norms = {name: 0.2 + 0.01 * at for at, name in enumerate(PARAMETERS)}
        rows = {"generator": norms | {PARAMETERS[-1]: 0.6 * grown}}
    return Reading(step=step, values=values, time=1784541600 + step * 0.0864, parameters=rows)


def look_for(spikes: dict[int, str], report: Path) -> None:
    """Each spike is a point of its curve in the page, at its step and of its size."""
    text = report.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    charts = {chart["id"]: chart for chart in json.loads(found[1])["charts"]}
    for step, optimizer in spikes.items():
        (line,) = [
            one for one in charts[f"grad/norm/{optimizer}"]["series"] if one["role"] == "line"
        ]
        here, values = 0, {}
        for distance, value in zip(line["x"], line["y"], strict=True):
            here += distance
            values[here] = value
        assert math.isclose(values[step], SPIKE + step, rel_tol=1e-4), (step, optimizer)
    left = [one for one in charts["grad/norm/generator"]["series"] if one["role"] == "left"]
    assert max(max(one["y"]) for one in left) > 1e6, "the explosion is not drawn"


if __name__ == "__main__":
    main()
