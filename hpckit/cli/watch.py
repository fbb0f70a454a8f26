"""hpckit watch"""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument
from hpckit.follow import Patience
from hpckit.paint import ESCAPES, harmless, note, plain_line
from hpckit.run import Run

EVERY_S = 1.0
LINES = 8


@click.command()
@run_argument()
@root_option
@json_option
def watch(name: str | None, root: str | None, as_json: bool) -> None:
    """Follow a run or a sweep until it ends; the exit code is its outcome.

    On a terminal the picture is redrawn in place; piped, each change is a line; with --json the
    end is one object.
    """
    sys.exit(watch_run(find_run(root, name), as_json=as_json))


def watch_run(run: Run, *, as_json: bool = False) -> int:
    """Show a run or sweep until it has ended; its outcome as an exit code."""
    picture = _Picture() if sys.stdout.isatty() and not as_json else None
    said: list[str] = []
    settled: dict[str, Any] = {}
    patience = Patience()
    while True:
        told = _told(run, settled)
        if picture is not None:
            picture.draw(_text(run, told))
        elif not as_json:
            said = _tell(told, said)
        if told["state"] in ("done", "stopped", "failed", "cancelled"):
            if as_json:
                print_json(told)
            return _exit_code(told["state"])
        if patience.is_over(_is_lost(told)):
            note("no longer watched")
            return 1
        time.sleep(EVERY_S)


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


def _told(run: Run, settled: dict[str, Any]) -> dict[str, Any]:
    from hpckit.cli.show import describe_run, describe_sweep

    return describe_sweep(run, settled) if run.is_sweep else describe_run(run)


def _is_lost(told: dict[str, Any]) -> bool:
    """Whether nobody knows any more what became of the run, or of all that are waited for."""
    from hpckit.ledger import FINAL_STATES
    from hpckit.status.state import LOST

    waited_for = [each for each in told.get("runs", [told]) if each["state"] not in FINAL_STATES]
    return all(each["reason"] == LOST for each in waited_for)


def _exit_code(state: str) -> int:
    from hpckit.worker.outcome import EXIT_CODES

    return EXIT_CODES[state]


def _text(run: Run, told: dict[str, Any]) -> str:
    from hpckit.cli.run_text import run_text
    from hpckit.cli.show import sweep_text
    from hpckit.logs import rank_log, tail

    if run.is_sweep:
        return sweep_text(told)
    text = run_text(told)
    attempts = run.attempts()
    log = rank_log(attempts[-1], 0) if attempts else None
    if log is not None and log.exists() and told["state"] != "failed":
        text += "\n\n" + "\n".join(harmless(line) for line in tail(log, LINES))
    return text


class _Picture:
    """Text that is drawn over itself."""

    def __init__(self) -> None:
        self._drawn = 0

    def draw(self, text: str) -> None:
        import shutil

        columns, rows = shutil.get_terminal_size()
        lines = [_cut(line, columns) for line in text.split("\n")]
        if len(lines) > rows - 1:
            hidden = len(lines) - rows + 2
            lines = [*lines[: rows - 2], f"({hidden} more lines: hpckit show tells all)"]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        sys.stdout.write(f"{up}\r{body}\x1b[J")
        sys.stdout.flush()
        self._drawn = len(lines)


def _cut(line: str, columns: int) -> str:
    """A line that takes one row: escape sequences take no room, and none is left open."""
    line = plain_line(line)
    shown, out = 0, ""
    for part in ESCAPES.split(line):
        if ESCAPES.fullmatch(part):
            out += part
            continue
        out += part[: max(0, columns - 1 - shown)]
        shown += len(part)
    return out
