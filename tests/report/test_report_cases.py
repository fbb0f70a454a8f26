"""Reports of runs in every state, and of folders that are damaged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpckit import report
from hpckit.clock import seconds_of
from hpckit.files import write_json
from hpckit.monitor.reading import Reading
from hpckit.report.page import page
from hpckit.report.several import differing, labels
from hpckit.run import Run, open_run
from hpckit.spec import spec_from_json
from tests.conftest import Cli
from tests.made_runs import finished, incident, make_sweep
from tests.report.written import HOSTILE, attempt, facts, made, steps

Look = Callable[..., Any]


def verdict_of(text: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", text, re.DOTALL)
    assert found is not None
    return found[1]


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_whatever_a_program_a_spec_or_a_node_is_called_nothing_of_it_runs(
    tmp_path: Path, look: Look
) -> None:
    run = made(tmp_path / "run", lr=HOSTILE, **{HOSTILE: 1})
    readings = [
        Reading(
            step=step,
            values={f"train/{HOSTILE}": 1.0, f"grad/norm/{HOSTILE}": 2.0, HOSTILE: 3.0},
            parameters={HOSTILE: {HOSTILE: 1.0, "b": 2.0}},
        )
        for step in range(20)
    ]
    attempt(run, readings)
    about = json.loads((run.dir / "attempts/001/attempt.json").read_text())
    write_json(run.dir / "attempts/001/attempt.json", about | {"node": HOSTILE, "job_id": HOSTILE})
    (run.dir / "attempts/001/environment").mkdir()
    environment = {HOSTILE: HOSTILE, "packages": {HOSTILE: HOSTILE}}
    write_json(run.dir / "attempts/001/environment/worker.json", environment)
    incident(run, 10, sentence=HOSTILE, plan={"do": "stop", "sentence": HOSTILE})
    finished(run, "failed", HOSTILE)
    found = open_run(run.dir)
    assert found is not None
    for number, runs in enumerate(([facts(found)], [facts(found), facts(found)])):
        path = tmp_path / f"{number}.html"
        path.write_text(page(runs))
        shown = look(path)
        assert shown.locator("img").count() == 0
        assert shown.locator("script").count() == 2
        for summary in shown.locator("summary:visible").all():
            summary.click()
        shown.wait_for_timeout(50)
        assert HOSTILE in shown.locator(".chart strong").all_inner_texts()


def test_a_run_that_has_not_begun_says_so(tmp_path: Path, look: Look) -> None:
    run = made(tmp_path / "run")
    path = tmp_path / "r.html"
    path.write_text(page([facts(run)]))
    assert verdict_of(path.read_text()).startswith(
        ("Waiting to start.", "Nobody knows", "Failed. Why: the submission was cut off")
    )
    shown = look(path)
    assert "No step has been read yet." in shown.locator("#curves").inner_text()


def test_a_program_that_tells_nothing_has_a_report_without_curves(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    attempt(run, [])
    finished(run, "done")
    text = page([facts(run)])
    assert verdict_of(text) == "Done. Nothing went wrong that needed help."
    assert data_of(text)["charts"] == []


def test_a_failed_run_tells_why(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 30))
    finished(run, "failed", "ValueError: no data at train.py:3 in main")
    assert verdict_of(page([facts(run)])) == (
        "Failed. Why: ValueError: no data at train.py:3 in main."
    )


def test_a_damaged_spec_is_named_and_all_else_is_told(tmp_path: Path, cli: Cli) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 30))
    (run.dir / "spec.json").write_text('{"name": "ag')
    path = tmp_path / "r.html"
    cli("report", run.dir, "-o", path)
    text = path.read_text()
    assert "spec.json cannot be read" in text
    (chart,) = [each for each in data_of(text)["charts"] if each["id"] == "grad/norm/main"]
    assert len(chart["series"][0]["x"]) == 30


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, cli: Cli) -> None:
    done = cli("report", "nobody", "--root", tmp_path, code=5)
    assert "no run called 'nobody'" in done.stderr


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, cli: Cli) -> None:
    run = made(tmp_path / "run")
    done = cli("report", run.dir, "-o", tmp_path / "no/such/r.html", code=1)
    assert "no/such" in done.stderr
    assert "choose another place with -o" in done.stderr


def test_values_that_are_no_numbers_are_marked(tmp_path: Path, look: Look) -> None:
    run = made(tmp_path / "run")
    readings = steps(0, 40)
    for step, value in ((10, math.nan), (20, math.inf), (30, -math.inf)):
        readings[step] = Reading(step=step, values={**readings[step].values, "train/loss": value})
    attempt(run, readings)
    finished(run, "done")
    path = tmp_path / "r.html"
    path.write_text(page([facts(run)]))
    marks = look(path).locator('.chart[data-id="loss"] .bad title')
    assert marks.all_text_contents() == [
        "loss is NaN at step 10",
        "loss is ∞ at step 20",
        "loss is −∞ at step 30",
    ]


def test_a_later_attempt_that_began_further_back_leaves_a_branch(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 100))
    attempt(run, steps(60, 150))
    (chart,) = [e for e in data_of(page([facts(run)]))["charts"] if e["id"] == "grad/norm/main"]
    roles = {one["role"]: (one["x"][0], sum(one["x"])) for one in chart["series"]}
    assert roles == {"line": (0, 149), "left": (59, 99)}


def test_several_runs_are_called_by_what_differs(tmp_path: Path, look: Look) -> None:
    runs = []
    for lr in (0.1, 0.2):
        run = made(tmp_path / f"{lr}", run_id=f"agent/{lr}", lr=lr, model={"width": 8})
        attempt(run, steps(0, 50))
        finished(run, "done")
        runs.append(facts(run))
    path = tmp_path / "r.html"
    path.write_text(page(runs))
    shown = look(path)
    assert shown.locator('[data-id="loss"] .values button').all_inner_texts() == [
        "lr=0.1",
        "lr=0.2",
    ]
    assert shown.locator("#outcomes tbody tr").count() == 2
    assert shown.locator("#outcomes thead").inner_text().split()[:3] == ["run", "lr", "state"]
    # What one does not want to see is hidden by a click.
    assert shown.locator('[data-id="loss"] .path.line').count() == 2
    shown.locator('[data-id="loss"] .values button').first.click()
    assert shown.locator('[data-id="loss"] .path.line').count() == 1


def test_of_runs_that_differ_in_much_each_parameter_has_a_line(tmp_path: Path, look: Look) -> None:
    runs = []
    for word, number in (("tiny", 1), ("large", 2)):
        params = {f"parameter_{place}": number * place for place in range(1, 9)}
        run = made(tmp_path / word, run_id=f"agent-{word}/0720", **params)
        about = json.loads((run.dir / "run.json").read_text())
        write_json(run.dir / "run.json", about | {"name": f"agent-{word}"})
        attempt(
            run, steps(0, 50, **{f"val/part_{part}": 1.0 for part in range(9)}, **{"val/loss": 2})
        )
        found = open_run(run.dir)
        assert found is not None
        runs.append(facts(found))
    path = tmp_path / "r.html"
    path.write_text(page(runs))
    shown = look(path, viewport={"width": 1000, "height": 800})
    assert shown.evaluate("document.documentElement.scrollWidth") == 1000
    assert shown.locator('[data-id="loss"] .values button').all_inner_texts() == ["tiny", "large"]
    outcomes, differ = shown.locator("#outcomes table").all()
    heads = outcomes.locator("th").all_inner_texts()
    assert heads == ["run", "state", "steps", "loss", "val loss", "incidents", "node h", "why"]
    assert differ.locator("tbody tr").count() == 8


def test_incidents_that_a_run_met_earlier_the_second_time_keep_their_places(
    tmp_path: Path, look: Look
) -> None:
    run = made(tmp_path / "run")
    attempt(run, [*steps(0, 90), *steps(0, 60)])
    for step in (80, 50):
        incident(run, step, plan={"do": "stop", "sentence": "stop"})
    path = tmp_path / "r.html"
    path.write_text(page([facts(run)]))
    shown = look(path)
    marks = shown.locator('[data-id="loss"] .marknumber')
    places = {
        marks.nth(at).locator("text").text_content(): marks.nth(at)
        .locator("circle")
        .get_attribute("cx")
        for at in range(2)
    }
    assert float(places["2"]) < float(places["1"])


def test_the_tiles_tell_the_best_validation_and_the_loss_of_the_blamed_optimizer(
    healed: Run, tmp_path: Path
) -> None:
    tiles = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page([facts(healed)]))
    assert [name for name, _ in tiles[6:8]] == ["best val error", "generator loss"]


def test_a_limit_far_above_the_curve_does_not_press_it_together(tmp_path: Path, look: Look) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 50, **{"grad/limit/main": 1e7, "grad/usual/main": 1.5}))
    path = tmp_path / "r.html"
    path.write_text(page([facts(run)]))
    assert look(path).evaluate("charts.find(c => c.about.id === 'grad/norm/main').py(1e7)") < 0


def test_what_differs_is_named_by_its_path() -> None:
    params = [{"a": 1, "loss": {"mel": 1, "w": 0}}, {"a": 1, "loss": {"mel": 2, "w": 0}}, {"a": 1}]
    assert differing(params[:2]) == ["loss.mel"]
    assert differing(params) == ["loss.mel", "loss.w"]


def test_open_without_a_screen_says_how_to_copy_it(tmp_path: Path, cli: Cli) -> None:
    run = made(tmp_path / "run")
    nowhere = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": ""}
    done = cli("report", run.dir, "--open", env=nowhere)
    assert re.search(rf"scp \S+:{run.dir}/report.html \.", done.stderr)
    assert done.stdout == f"{run.dir}/report.html\n"
    done = cli("report", run.dir, "-o", tmp_path / "a b.html", "--open", env=nowhere)
    assert re.search(rf"scp '\S+:{tmp_path}/a b.html' \.", done.stderr)


def test_a_sweep_is_its_points_side_by_side_in_the_sweeps_folder(tmp_path: Path, cli: Cli) -> None:
    points = make_sweep(tmp_path / "agent/0720-sqx", 3)
    folder = points[0].dir.parent
    spec = spec_from_json({"name": "agent", "program": "python train.py"})
    write_json(folder / "spec.json", spec.to_json())
    listed = [
        {"index": at, "values": {"lr": at / 10}, "params": {"lr": at / 10}} for at in range(3)
    ]
    write_json(folder / "sweep.json", {"points": listed})
    for at in range(2):
        point = open_run(folder / f"{at:03d}")
        assert point is not None
        attempt(point, steps(0, 30 + at))
    told = json.loads(cli("report", folder, "--json").stdout)
    assert told["runs"] == [f"agent/0720-sqx/{at:03d}" for at in range(3)]
    assert told["report"] == str(folder / "report.html")
    text = (folder / "report.html").read_text()
    assert [each["label"] for each in data_of(text)["runs"]] == ["lr=0", "lr=0.1"]
    assert text.count('class="swatch') == 3


def test_a_long_noisy_curve_shows_its_middle_until_one_looks_closely(
    tmp_path: Path, look: Look
) -> None:
    run = made(tmp_path / "run")
    noisy = [
        Reading(step=step, values={"train/loss": 2.0 + math.sin(step * step)})
        for step in range(6000)
    ]
    attempt(run, noisy)
    path = tmp_path / "r.html"
    path.write_text(page([facts(run)]))
    shown = look(path)
    loss = shown.locator('.chart[data-id="loss"]')
    assert loss.locator(".path.middle").count() == loss.locator(".path.band").count() == 1
    shown.evaluate("zoom(3000, 3200)")
    assert loss.locator(".path.middle").count() == loss.locator(".path.band").count() == 0
    assert loss.locator(".path.line").count() == 1


def test_a_relaunch_is_a_bar_of_its_own(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 40))
    attempt(run, steps(40, 90), launch=2)
    text = page([facts(run)])
    assert re.findall(r'title="(attempt 1, launch \d):', text) == [
        "attempt 1, launch 1",
        "attempt 1, launch 2",
    ]


def test_every_colour_of_text_and_of_lines_can_be_told_from_the_ground() -> None:
    css = (Path(report.__file__).parent / "report.css").read_text()
    blocks = [part for part in css.split("{") if "--page:" in part]
    assert len(blocks) == 3
    for block in blocks:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for name in ("ink", "soft", "bad", "machine", "good", "wait"):
            assert contrast(colours[name], colours["card"]) >= 4.5, name
        for name in (f"c{number}" for number in range(8)):
            assert contrast(colours[name], colours["card"]) >= 3, name


def contrast(one: str, other: str) -> float:
    """As WCAG reckons it."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_what_makes_no_sense_in_a_ledger_or_an_attempt_hides_nothing_else(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 40))
    incident(run, 10, plan={"do": "stop", "sentence": "stop"})
    path = run.dir / "ledger" / "log.jsonl"
    path.write_text(path.read_text().replace('"step":10', '"step":"ten"') + '{"time":"2026-0')
    text = page([facts(run)])
    assert "makes no sense" in re.findall(r'<ul class="missing">.*?</ul>', text)[0]
    assert len(data_of(text)["charts"]) >= 2
    path.unlink()
    (run.dir / "attempts/001/attempt.json").write_text('{"number": 1, "started": "noon"}')
    text = page([facts(run)])
    assert "noon" in text
    assert len(data_of(text)["charts"]) >= 2


def test_an_update_is_told_to_be_held_back_only_where_something_held_it(tmp_path: Path) -> None:
    found = {}
    for name, gated in (("log", {}), ("gate", {"grad/gated/main": 1.0})):
        run = made(tmp_path / name)
        attempt(run, [*steps(0, 10), *steps(10, 11, **gated), *steps(11, 20)])
        about = {"kind": "bad_batch", "step": 10, "sentence": "gradient norm 9", "acts": False}
        run.ledger("log").write("incident", attempt=1, incident=about)
        found[name] = page([facts(run)])
    assert "This update was held back" in found["gate"]
    assert 'class="gated"' in found["gate"]
    assert "gradient norm 9" in found["log"]
    assert "held back" not in re.sub(r"<style>.*</style>|<script.*", "", found["log"], flags=re.S)


def test_of_very_much_that_was_only_told_it_says_how_much_is_listed(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 90))
    for step in range(30):
        incident(run, step)
    assert "are listed" not in page([facts(run)])
    for step in range(30, 80):
        incident(run, step)
    text = page([facts(run)])
    assert "Of 80 incidents about which nothing was done 30 are listed." in text
    assert text.count('<li class="told">') == 30


def test_names_that_are_no_text_and_numbers_without_end_cost_nothing_else(
    tmp_path: Path, cli: Cli
) -> None:
    run = made(tmp_path / "run")
    (path,) = attempt(run, steps(0, 20)).iterdir()
    lines = ['{"step":20,"train/\\ud800":1}', f'{{"step":21,"train/loss":1{"0" * 400}}}']
    lines += ['{"step":22,"parameters":{"main":{}}}', '{"step":23,"train/loss":2}']
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    cli("report", run.dir, "-o", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    (loss,) = [each for each in data_of(text)["charts"] if each["id"] == "loss"]
    assert sum(loss["series"][0]["x"]) == 23
    assert data_of(text)["heats"] == []


def test_what_failed_shows_the_end_of_its_log_as_text(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 5))
    finished(run, "failed", "the program ended with exit code 1")
    log = run.dir / "attempts/001/logs/launch-1/rank-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("Traceback\n\033[31mValueError: <b>width</b>\n" + "#" * 9000 + "end\n")
    text = page([facts(run)])
    (words,) = re.findall(r'aria-label="The end of its log">(.*?)</pre>', text, re.DOTALL)
    assert words.startswith("Traceback\nValueError: &lt;b&gt;width&lt;/b&gt;\n##")
    assert words.endswith("#end")
    assert len(words) < 1000


def test_of_several_runs_one_says_where_to(tmp_path: Path, cli: Cli) -> None:
    runs = [made(tmp_path / str(at), run_id=f"agent/{at}") for at in range(2)]
    folders = [run.dir for run in runs]
    for command in ("report", "curves"):
        done = cli(command, *folders, code=2)
        assert "name a place with -o" in done.stderr
    assert not any((folder / "report.html").exists() for folder in folders)
    cli("report", folders[0], folders[0])
    assert (folders[0] / "report.html").exists()


def test_a_sweep_whose_list_is_gone_is_named(tmp_path: Path, cli: Cli) -> None:
    points = make_sweep(tmp_path / "agent/0720-sqx", 3)
    folder = points[0].dir.parent
    write_json(folder / "sweep.json", {"points": []})
    for command in ("report", "curves"):
        assert "is a sweep without runs" in cli(command, folder, code=5).stderr


def test_points_of_two_sweeps_and_hours_of_two_kinds_are_told_apart(tmp_path: Path) -> None:
    runs = [made(tmp_path / at, run_id=f"agent/{at}/000", lr=0.1) for at in ("one", "two")]
    told = [facts(run) for run in runs]
    assert labels(told) == ["agent/one/000", "agent/two/000"]
    assert '<th scope="col" class=n>node h</th>' in page(told)
    hours = {**told[0].told["gpu_hours"], "unit": "GPU h", "used": 3.0}
    told[0] = replace(told[0], told={**told[0].told, "gpu_hours": hours})
    text = page(told)
    assert "<td class=n>3 GPU h</td>" in text
    assert "<td class=n>0 node h</td>" in text


def test_what_a_person_changed_is_told_though_nothing_went_wrong(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 5))
    assert "Nothing was changed." in page([facts(run)])
    run.ledger("worker").write("applied", attempt=1, changed=["params.epochs 30 -> 20"])
    text = page([facts(run)])
    assert "What a person changed stands with the attempts" in text
    assert "<td>params.epochs 30 → 20</td>" in text


def test_the_time_of_a_run_that_is_over_does_not_grow_with_the_day_it_is_read(
    tmp_path: Path,
) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 5))
    told = facts(run)
    started = "2026-07-20T10:00:00Z"
    ended = {**told.told["attempts"][0], "started": started, "ended": None}
    about = {**told.told, "attempts": [ended], "state": "stopped"}
    day = seconds_of(started) + 86_400
    over = page([replace(told, told=about)], now=day)
    live = page([replace(told, told={**about, "state": "running"})], now=day)
    assert "<dt>time</dt><dd>0 s</dd>" in over
    assert "<dt>time</dt><dd>1 d 0 h</dd>" in live
