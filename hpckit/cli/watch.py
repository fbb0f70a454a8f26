"""hpckit watch"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument
from hpckit.follow import Patience
from hpckit.paint import can_redraw, harmless, note
from hpckit.run import Attempt, Run, attempts_in
from hpckit.settings import typed

if TYPE_CHECKING:
    from hpckit.status.live import Live

EVERY_S = 1.0
# Who sees no picture is told how far it is so often.
PROGRESS_S = 30.0
# Of the log, where there is room.
LINES = 8
# Of each point's readings: there may be hundreds.
MOST_BYTES_OF_A_POINT = 64_000
FINAL = ("done", "stopped", "failed", "cancelled")


@click.command()
@run_argument()
@root_option
@json_option
def watch(name: str | None, root: str | None, as_json: bool) -> None:
    """Follow a run or a sweep until it ends; the exit code is its outcome.

    On a terminal a picture is redrawn in place: how far it is and how long is left, losses, each
    optimizer's gradient norm and its course (`!` where something was wrong), what was found and
    done, the end of the log. Piped, each change is a line, and twice a minute how far it is; with
    --json the end is one object. Ctrl-C leaves the run alone.
    """
    sys.exit(watch_run(find_run(root, name), as_json=as_json))


def watch_run(run: Run, *, as_json: bool = False) -> int:
    """Show a run or sweep until it has ended; its outcome as an exit code."""
    try:
        return _watch(run, as_json)
    except KeyboardInterrupt:
        note(f"\n-- no longer watched; the run goes on: hpckit watch {typed(run.id, run.dir)}")
        raise


def _watch(run: Run, as_json: bool) -> int:
    seen = _Seen(run)
    show = _silent if as_json else _Drawing(seen).show if can_redraw() else _Lines(seen).show
    patience = Patience()
    while True:
        told = seen.look()
        show(told)
        if told["state"] in FINAL:
            if as_json:
                print_json(told)
            return _exit_code(told["state"])
        if patience.is_over(_is_lost(told)):
            note("no longer watched")
            return 1
        time.sleep(EVERY_S)


class _Seen:
    """A run or sweep, and its readings as they come."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.lives: dict[str, Live] = {}
        self._settled: dict[str, Any] = {}
        # Points that have ended, and were looked at since.
        self._whole: set[str] = set()

    def look(self) -> dict[str, Any]:
        from hpckit.cli.show import describe_run, describe_sweep

        if self.run.is_sweep:
            return describe_sweep(self.run, self._settled)
        return describe_run(self.run)

    def live(self, told: dict[str, Any]) -> Live:
        """What the run does just now."""
        from hpckit.status.live import Live

        live = self.lives.setdefault(self.run.id, Live())
        live.look([Attempt(number=e["number"], dir=Path(e["dir"])) for e in told["attempts"]])
        return live

    def points(self, told: list[dict[str, Any]]) -> dict[str, Live]:
        """What these points do just now; of one that has ended the last that it did."""
        from hpckit.status.live import Live

        for each in told:
            if each["run"] in self._whole:
                continue
            live = self.lives.setdefault(each["run"], Live(most_bytes=MOST_BYTES_OF_A_POINT))
            if each["attempts"]:
                live.look(attempts_in(Path(each["dir"])))
            if each["run"] in self._settled:
                self._whole.add(each["run"])
        return self.lives


class _Drawing:
    """In a terminal: a picture."""

    def __init__(self, seen: _Seen) -> None:
        from hpckit.cli.picture import Picture

        self._seen = seen
        self._picture = Picture()

    def show(self, told: dict[str, Any]) -> None:
        from hpckit.cli.live_text import run_lines, seen_points, sweep_lines

        self._picture.look()
        size = self._picture.size
        if self._seen.run.is_sweep:
            lives = self._seen.points(seen_points(told, size[1]))
            lines = sweep_lines(told, lives, size=size)
        else:
            lines = run_lines(told, self._seen.live(told), _tail(told), size=size)
        self._picture.draw(lines)


class _Lines:
    """Elsewhere: a line for each change, and now and then how far it is."""

    def __init__(self, seen: _Seen) -> None:
        self._seen = seen
        self._said: list[str] = []
        self._progress = ""
        self._progress_at = time.monotonic()

    def show(self, told: dict[str, Any]) -> None:
        self._said = _tell(told, self._said)
        # While nothing runs there is nothing to be read.
        if told["state"] == "running" and time.monotonic() - self._progress_at >= PROGRESS_S:
            self._progress_at = time.monotonic()
            before, self._progress = self._progress, self._how_far(told)
            if self._progress not in ("", before):
                print(self._progress, flush=True)

    def _how_far(self, told: dict[str, Any]) -> str:
        from hpckit.cli.live_text import progress_line, sweep_progress_line

        if self._seen.run.is_sweep:
            running = [each for each in told["runs"] if each["state"] == "running"]
            return sweep_progress_line(told, self._seen.points(running))
        live = self._seen.live(told)
        return progress_line(told, live) if live.step is not None else ""


def _silent(told: dict[str, Any]) -> None:
    """Who wants one object at the end sees nothing before."""


def _tell(told: dict[str, Any], said: list[str]) -> list[str]:
    """Print what is new, a line each: incidents, attempts, the state; all that was told by now."""
    lines = [*_incidents(told), _line(told)]
    for line in lines[:-1]:
        if line not in said:
            print(line, flush=True)
    if lines[-1] != (said[-1] if said else ""):
        print(lines[-1], flush=True)
    return lines


def _incidents(told: dict[str, Any]) -> list[str]:
    """What was found and what was done about it; the answer to one is a line of its own."""
    lines = []
    for each in told.get("incidents", ()):
        where = f"{told['run']}: attempt {each['attempt']}, step {each['step']}: {each['kind']}"
        lines.append(harmless(f"{where}: {each['sentence']}"))
        if each["applied"]:
            went = [f"goes on from step {each['resumed_step']}", *each["changed"]]
            lines.append(harmless(f"{where}: {', '.join(went)}"))
    return lines


def _line(told: dict[str, Any]) -> str:
    attempt = (
        told["attempts"][-1] if isinstance(told["attempts"], list) and told["attempts"] else None
    )
    number = f", attempt {attempt['number']}" if attempt and attempt["number"] > 1 else ""
    reason = "" if told["reason"] in ("", told["state"]) else f": {told['reason']}"
    return f"{told['run']}: {told['state']}{number}{reason}"


def _is_lost(told: dict[str, Any]) -> bool:
    """Whether nobody knows any more what became of the run, or of all that are waited for."""
    from hpckit.ledger import FINAL_STATES
    from hpckit.status.state import LOST

    waited_for = [each for each in told.get("runs", [told]) if each["state"] not in FINAL_STATES]
    return all(each["reason"] == LOST for each in waited_for)


def _exit_code(state: str) -> int:
    from hpckit.worker.outcome import EXIT_CODES

    return EXIT_CODES[state]


def _tail(told: dict[str, Any]) -> list[str]:
    """The end of its log; of what has failed that of the rank that did so first."""
    from hpckit.logs import failed_log, rank_log, tail

    if not told["attempts"]:
        return []
    last = told["attempts"][-1]
    if told["state"] == "failed":
        log = failed_log(last)
    else:
        log = rank_log(Attempt(number=last["number"], dir=Path(last["dir"])), 0)
    try:
        return tail(log, LINES) if log is not None else []
    except OSError:
        # Not there yet, or just now.
        return []
