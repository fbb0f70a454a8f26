"""Makes docs/report.png and jobs/creative_agent/norm.svg: a training that explodes, and its report.

    python docs/make_pictures.py            # runs the incident first, a minute or two
    python docs/make_pictures.py RUN        # of a run that is there already: its directory

Needs Chromium. What stands between the timeline and the curves is left out of the picture.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
JOB = HERE.parent / "jobs" / "creative_agent"
# As wide as GitHub shows it, for screens with two pixels a point.
WIDTH, RATIO = 960, 2
LEFT_OUT = ".tools, .events, #events .lead, #changes, #curves > :not(#charts-gradients), #curves h3"
TIGHT = f"""
    {LEFT_OUT} {{ display: none !important }}
    header {{ padding-top: 26px }} h1 {{ margin-bottom: 12px; font-size: 23px }}
    h2 {{ margin-top: 26px }} .small {{ margin: 0 0 16px }} .timeline {{ margin-bottom: 0 }}
    .chart details {{ display: none }}
    #curves {{ margin-top: 16px }}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run = Path(sys.argv[1]) if sys.argv[1:] else incident(root)
        page = root / "report.html"
        hpckit("report", run, "-o", page)
        picture(page, HERE / "report.png")
        hpckit("curves", run, "-o", JOB / "norm.svg", "--only", "grad/norm/generator")


def incident(root: Path) -> Path:
    """A fresh run of the incident; it ends well."""
    hpckit("run", "incident.yaml", "--root", root, cwd=JOB)
    return Path(json.loads(hpckit("show", "--json", "--root", root))["dir"])


def hpckit(*words: str | Path, cwd: Path | None = None) -> str:
    command = [sys.executable, "-m", "hpckit", *map(str, words)]
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def picture(page: Path, path: Path) -> None:
    """The verdict, the timeline, and the norm with the explosion, from the page itself."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as player:
        # As root Chromium has no sandbox.
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        size = {"width": WIDTH, "height": 1200}
        shown: Any = browser.new_page(
            viewport=size, device_scale_factor=RATIO, color_scheme="light"
        )
        shown.goto(page.resolve().as_uri())
        shown.wait_for_selector("html[data-drawn=yes]")
        shown.add_style_tag(content=TIGHT)
        shown.evaluate("redraw()")
        end = shown.locator("#charts-gradients figure").nth(1).bounding_box()
        cut = {"x": 0, "y": 0, "width": WIDTH, "height": end["y"] + end["height"] + 12}
        found = shown.screenshot(clip=cut, full_page=True)
        browser.close()
    # A page has few colours: a third of the size, and nobody sees it.
    few = Image.open(io.BytesIO(found)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main()
