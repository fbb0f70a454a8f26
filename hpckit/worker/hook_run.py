"""One command of a hook: run in the work folder, logged, and never let loose."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hpckit.run import Attempt, Run
from hpckit.scheduler.slurm import clean_environment
from hpckit.worker.bounded import Bounds, Ended, run_bounded
from hpckit.worker.hook_log import HookLog
from hpckit.worker.log_watch import tell
from hpckit.worker.occasion import Occasion

# If memory runs out, a hook goes before the training does. Its parent is a shell of its own: a
# `kill $PPID` in it is not to end the worker.
START = """
exec 3>&2 2>/dev/null
echo 1000 >/proc/self/oom_score_adj
bash -o pipefail -c "$0" 2>&3 3>&-
exit $?
"""
# Troubles of so many kinds are told, each once.
MOST_TOLD = 50
MOST_SHOWN = 200


class HookRunner:
    """Runs the commands of one attempt's hooks, and says what became of them."""

    def __init__(self, run: Run, attempt: Attempt) -> None:
        self._run = run
        self._log = HookLog(attempt.dir / "hooks.log")
        self._told: set[tuple[str, str]] = set()

    def run(self, occasion: Occasion, command: str, is_late: Callable[[], bool]) -> None:
        said = _shown(command)
        self._log.begin(f"{occasion.hook} begins: {said}")
        began = time.monotonic()
        try:
            ended = self._bounded(occasion, command, is_late)
            how, is_well = _how(ended, self._log.cut)
        except Exception as error:
            how, is_well = f"could not be started: {error}", False
        self._log.line(f"{occasion.hook} {how} after {time.monotonic() - began:.1f} s: {said}")
        if not is_well:
            self.tell_once(f"hook {occasion.hook}: {said}", f"{how}; see {self._log.path}")

    def pass_over(self, hook: str, why: str) -> None:
        """Say that a hook is not run."""
        self._log.line(f"{hook} is not run: {why}")
        self.tell_once(f"hook {hook}", f"not run: {why}")

    def tell_once(self, what: str, how: str) -> None:
        """Each kind of trouble once, in the worker's own log: the hooks' log has them all."""
        if (what, how) not in self._told and len(self._told) < MOST_TOLD:
            self._told.add((what, how))
            tell(f"{what}: {how}")

    def _bounded(self, occasion: Occasion, command: str, is_late: Callable[[], bool]) -> Ended:
        clean = clean_environment(os.environ)
        # Last, so that nothing of a person's own is hidden: `hpckit` is found by a hook.
        path = os.pathsep.join((clean.get("PATH", os.defpath), str(Path(sys.executable).parent)))
        own = {
            "PATH": path,
            "HPCKIT_RUN": self._run.id,
            "HPCKIT_RUN_DIR": str(self._run.dir),
            "HPCKIT_EVENT": occasion.hook,
        }
        return run_bounded(
            ["bash", "-c", START, command],
            given=occasion.text,
            bounds=Bounds(is_late=is_late, take=self._log.take),
            cwd=self._run.dir / "work",
            env={**clean, **own},
        )


def _how(ended: Ended, cut: int) -> tuple[str, bool]:
    """How a hook ended, and whether nothing is wrong with that."""
    said = ["was killed, its time was over"]
    if ended.code is not None:
        by_signal = f"was ended by signal {-ended.code}"
        said = [by_signal if ended.code < 0 else f"ended with exit code {ended.code}"]
        if ended.left:
            said.append("what it left running was killed")
    if cut:
        said.append("the end of what it printed was left out")
    return ", ".join(said), ended.code == 0 and len(said) == 1


def _shown(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}..."
