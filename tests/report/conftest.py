"""Runs that are reported on, and the browser that looks at the pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpckit.run import Run, open_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SPEC = """
name: agent
program: {python: train.py}
params: {lr: 0.002, explodes: once}
checkpoint: {every: 50 steps, confirm_steps: 30}
"""
Submit = Callable[..., Run]


@pytest.fixture(scope="session")
def submit(tmp_path_factory: pytest.TempPathFactory) -> Submit:
    """Submits the small training to the local scheduler, and waits for its end."""
    root = tmp_path_factory.mktemp("reported")
    job = root / "job"
    job.mkdir()
    shutil.copy(Path(__file__).with_name("exploding.py"), job / "train.py")
    (job / "job.yaml").write_text(SPEC)

    def call(*overrides: str) -> Run:
        runs = root / "runs"
        before = set(runs.glob("agent/*"))
        command = [sys.executable, "-m", "hpckit", "submit", "job.yaml", "--cluster", "local"]
        command += ["--follow", "--root", str(runs), *(f"-s={each}" for each in overrides)]
        # Its own scheduler: this fixture outlives a test's home.
        state = {"HPCKIT_LOCAL_DIR": str(root / "local"), "HPCKIT_LOCAL_CPUS": "16"}
        done = subprocess.run(
            command, cwd=job, env=os.environ | state, capture_output=True, text=True, timeout=120
        )
        (folder,) = set(runs.glob("agent/*")) - before
        run = open_run(folder)
        assert run is not None, done.stderr
        return run

    return call


@pytest.fixture(scope="session")
def healed(submit: Submit) -> Run:
    """A training whose gradients exploded once, and that was rolled back and finished."""
    return submit()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One for all tests; skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        # As root Chromium has no sandbox.
        found = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page that must ask for nothing, and complain of nothing."""
    contexts, wrong = [], []

    def open_page(path: Path, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1240, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
        here = path.resolve().as_uri()
        page.on("request", lambda asked: asked.url == here or wrong.append(f"asks {asked.url}"))
        page.goto(here)
        page.wait_for_selector("html[data-drawn=yes]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
