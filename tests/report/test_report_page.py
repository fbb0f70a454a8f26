"""The report as a person sees it, in a real Chromium."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpckit.run import Run
from tests.conftest import Cli

Look = Callable[..., Any]


@pytest.fixture(scope="module")
def report(healed: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the training that was healed, as the command writes it."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    command = [sys.executable, "-m", "hpckit", "report", str(healed.dir), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{path}\n"
    return path


def gradient(page: Any) -> Any:
    """The chart in which the explosion is seen."""
    return page.locator('.chart[data-id="grad/norm/generator"]')


def at(page: Any, chart: Any, step: float) -> tuple[float, float]:
    """Where a step is on the screen."""
    box = chart.locator("svg").bounding_box()
    x = page.evaluate(
        "([id, step]) => charts.find(c => c.about.id === id).px(step)",
        [chart.get_attribute("data-id"), step],
    )
    return box["x"] + x, box["y"] + box["height"] / 2


def test_the_verdict_tells_what_happened_and_what_was_done(report: Path) -> None:
    found = re.search(r"<h1>(.*?)</h1>", report.read_text())
    assert found is not None
    said = found[1]
    assert said.startswith("Done. Gradients exploded at step ")
    assert re.search(
        r"hpckit went back to step \d+, tightened generator&#x27;s clip from 3 to 1.5 and lowered "
        r"its learning rate from [\d.]+ to [\d.]+, and the training finished\.",
        said,
    )
    assert re.search(r"\d+ steps were done again\.$", said)


def test_a_report_lies_in_the_runs_folder_and_is_named_as_json(healed: Run, cli: Cli) -> None:
    told = json.loads(cli("report", healed.dir, "--json").stdout)
    assert told == {"report": str(healed.dir / "report.html"), "runs": [healed.id]}
    assert (healed.dir / "report.html").read_text().startswith("<!doctype html>")


def test_pointing_at_a_step_shows_its_values_in_every_chart(report: Path, look: Look) -> None:
    page = look(report)
    chart = gradient(page)
    chart.scroll_into_view_if_needed()
    page.mouse.move(*at(page, chart, 100))
    assert page.locator("#shown").inner_text().endswith("· at 100")
    number = page.locator(".chart svg .hair").count()
    assert number == page.evaluate("charts.length")
    assert number > 8
    row = page.evaluate(
        "(() => { const one = charts.find(c => c.about.id === 'train/balance').lines[0];"
        " return said(one.y[one.x.indexOf(100)]); })()"
    )
    assert page.locator('[data-id="train/balance"] .values b').inner_text() == row


def test_dragging_over_a_chart_zooms_all_of_them_and_a_double_click_shows_all(
    report: Path, look: Look
) -> None:
    page = look(report)
    chart = gradient(page)
    chart.scroll_into_view_if_needed()
    page.mouse.move(*at(page, chart, 340))
    page.mouse.down()
    page.mouse.move(*at(page, chart, 370))
    page.mouse.move(*at(page, chart, 400))
    page.mouse.up()
    begin, end = page.evaluate("[view.from, view.to]")
    assert (round(begin), round(end)) == (340, 400)
    other = page.locator('[data-id="train/balance"] svg')
    assert "steps 340 to 400" in other.get_attribute("aria-label")
    page.mouse.dblclick(*at(page, chart, 370))
    assert page.evaluate("[view.from, view.to] + ''") == page.evaluate("view.full + ''")


def test_keys_move_along_a_chart_and_zoom(report: Path, look: Look) -> None:
    page = look(report)
    gradient(page).locator("svg").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#shown").inner_text().endswith("· at 2")
    page.keyboard.press("+")
    assert page.locator("#reset").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#reset").is_visible()


def test_a_finger_zooms_too(report: Path, look: Look) -> None:
    page = look(report, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    chart = gradient(page)
    chart.scroll_into_view_if_needed()
    (left, y), (right, _) = at(page, chart, 300), at(page, chart, 450)
    session = page.context.new_cdp_session(page)
    for kind, x in (("touchStart", left), ("touchMove", (left + right) / 2), ("touchMove", right)):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function("view.to - view.from < 200")
    begin, end = page.evaluate("[view.from, view.to]")
    assert abs(begin - 300) < 12
    assert abs(end - 450) < 12


def test_the_explosion_itself_is_drawn_on_a_branch_that_was_left(report: Path, look: Look) -> None:
    page = look(report)
    lines = page.evaluate(
        "charts.find(c => c.about.id === 'grad/norm/generator').about.series"
        ".map(s => [s.role, Math.max(...s.y)])"
    )
    left = [most for role, most in lines if role == "left"]
    (counting,) = [most for role, most in lines if role == "line"]
    assert max(left) > 10 * counting
    chart = gradient(page)
    assert chart.locator(".path.left").count() == len(left)
    # Its values are told, too, where one points at it.
    page.evaluate("pointAt(DATA.runs[0].marks[0].step)")
    assert re.search(r"\(left: [5-9]\d", chart.locator(".values b").inner_text())
    # The incident, the way back, and the updates that were held back.
    assert chart.locator(".marknumber text").text_content() == "1"
    assert chart.locator(".again").count() == 1
    assert chart.locator(".cross").count() == 1


def test_each_picture_has_its_numbers_beneath(report: Path, look: Look) -> None:
    page = look(report)
    step = page.evaluate("DATA.runs[0].marks[0].step")
    charts = page.locator(".group .chart")
    for place in range(charts.count()):
        chart = charts.nth(place)
        chart.locator("summary").click()
        chart.locator("tbody tr").nth(3).wait_for(timeout=2000)
    norm = gradient(page).locator("tbody tr", has=page.get_by_text(str(step), exact=True))
    # Of the step of the incident it is the value that led to it, not what came later.
    assert float(norm.locator("td").nth(1).inner_text()) > 20


def test_light_and_dark_follow_the_system_and_the_button(report: Path, look: Look) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page = look(report)
    light = page.evaluate(ground)
    page.locator("#theme").click()
    dark = page.evaluate(ground)
    assert dark != light
    page = look(report, color_scheme="dark")
    assert page.evaluate(ground) == dark
    page.emulate_media(media="print")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"


def test_on_paper_all_is_open_and_nothing_is_there_to_press(report: Path, look: Look) -> None:
    page = look(report)
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    # At once: the printer does not wait.
    assert page.locator(".chart:not(:has(tbody tr))").count() == 0
    for button in page.locator("button.scale, #theme, #reset").all():
        assert not button.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
