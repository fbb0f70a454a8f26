"""A run in the foreground: same directory, same scripts, but this terminal and no queue."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.clock import now_iso
from hpckit.errors import UsageError
from hpckit.paint import note
from hpckit.run import IDENTITY, Run
from hpckit.scheduler.local_state import Process
from hpckit.submission.commit import prepare, reserve
from hpckit.worker import launch as launching
from hpckit.worker.herald import Herald
from hpckit.worker.machine import write_down
from hpckit.worker.outcome import TERMINATED, Outcome
from hpckit.worker.signals import Signals
from hpckit.worker.watch import Watch
from hpckit.worker.words import end_attempt, insist

if TYPE_CHECKING:
    from hpckit.spec import JobSpec
    from hpckit.submission.fork import Fork

INTERRUPTED = "interrupted"
# A person sits before it: a disk that stays full is told, not waited for.
WORDS_S = 10.0
# So long a program may take to end by an interrupt of its own before we tell it.
OWN_END_S = 2.0


def run_here(
    spec: JobSpec, *, root: Path, source: Path, spec_text: str, fork: Fork | None = None
) -> int:
    """Run a job to its end in this terminal; its outcome as an exit code."""
    if spec.sweep is not None:
        raise UsageError("a sweep cannot run in the foreground", "hpckit submit runs its points")
    if spec.resources.nodes > 1 and not launching.inside_slurm(os.environ):
        raise UsageError(
            f"the job asks for {spec.resources.nodes} nodes, and this is one machine",
            "run it inside salloc, or with -s resources.nodes=1",
        )
    plan = dataclasses.replace(
        reserve(spec, root=root, scheduler="foreground"), chains=(), fork=fork
    )
    run = prepare(plan, source=source, spec_text=spec_text)
    for warning in plan.warnings:
        note(f"warning: {warning}")
    note(f"-- {run.id} in {run.dir}")
    outcome = _attempt(run, plan.spec)
    words = (
        outcome.reason if outcome.reason == outcome.state else f"{outcome.state}: {outcome.reason}"
    )
    note(f"-- {words}; {run.dir}")
    return 130 if outcome.reason in (TERMINATED, INTERRUPTED) else outcome.exit_code


def _attempt(run: Run, spec: JobSpec) -> Outcome:
    started = now_iso()
    attempt = run.claim_attempt(
        {
            "job_id": os.environ.get("SLURM_JOB_ID"),
            "node": os.environ.get("SLURM_JOB_NODELIST", socket.gethostname()),
            "started": started,
            "host": socket.gethostname(),
            "process": Process.this()._asdict(),
        }
    )
    write_down(run, attempt)
    signals, herald = Signals(), Herald(run)
    herald.begin(attempt, spec)
    watch = Watch(
        run=run,
        spec=spec,
        attempt=attempt,
        signals=signals,
        started=started,
        before_launch=lambda: herald.before_launch(lambda: signals.terminated),
    )
    outcome = _watched(watch)
    if not (run.dir / IDENTITY).exists():
        # To write the end down would make a folder again that is no run.
        return Outcome(state="failed", reason="the run's folder was deleted while it ran")
    if (outcome.program or {}).get("code") == 128 + signal.SIGINT:
        # What a person did with Ctrl-C is no failure of the program.
        outcome = dataclasses.replace(outcome, state="cancelled", reason=INTERRUPTED)
    if outcome.state is None:
        outcome = dataclasses.replace(outcome, state="stopped")
    about = {"state": outcome.state, "reason": outcome.reason}
    ledger = run.ledger()
    try:
        insist(lambda: ledger.write("finished", **about), for_s=WORDS_S)
        end_attempt(attempt, outcome, for_s=WORDS_S)
    except OSError as error:
        # What the program did, it did: its exit code is told all the same.
        note(f"hpckit: the end could not be written down: {error}")
    herald.finish()
    return outcome


def _watched(watch: Watch) -> Outcome:
    """One process keeps the terminal; of several, what rank 0 prints is shown."""
    if watch.layout.world_size == 1:
        watch.signals.install(signal.SIGHUP)
        signal.signal(signal.SIGINT, _Interrupts(watch.signals))
        watch.foreground = True
        return watch.serve()
    watch.signals.install(signal.SIGHUP, signal.SIGINT)
    done = threading.Event()
    printer = threading.Thread(target=_print_rank_0, args=(watch, done), daemon=True)
    printer.start()
    outcome = watch.serve()
    done.set()
    printer.join(timeout=5)
    return outcome


class _Interrupts:
    """What SIGINT means to us: the first Ctrl-C is for the program, which shares the terminal."""

    def __init__(self, signals: Signals) -> None:
        from hpckit.worker.terminal import has_terminal, is_before_a_person

        self._signals = signals
        # Under a terminal of its own the program gets the key alone, and what reaches us is not it.
        self._borne = 1 if is_before_a_person() and not has_terminal() else 0

    def __call__(self, number: int, frame: object) -> None:
        if self._borne > 0:
            self._borne -= 1
            return
        if not self._signals.terminated:
            # What was sent to the whole process group has reached the program, too.
            self._signals.patient_until = time.monotonic() + OWN_END_S
        self._signals.terminated = True


def _print_rank_0(watch: Watch, done: threading.Event) -> None:
    from hpckit.logs import Reader, rank_log

    reader = None
    while True:
        ending = done.is_set()
        path = rank_log(watch.attempt, 0)
        if reader is None and path is not None:
            reader = Reader(path)
        text = reader.more() if reader is not None else ""
        print(text, end="", flush=True)
        if ending and not text:
            return
        time.sleep(0.1)
