"""Daemons of one folder: started, found again, and ended without ever touching a stranger."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpckit.files import read_json, write_json

# Each daemon carries "<name>:<folder>" in its environment, and so do the helpers it forks. A pid
# file may lie (a reboot, a reused pid, a deleted folder); the process itself does not.
MARK = "HPCKIT_DAEMON"

# Our own children must be waited for, or they stay zombies as long as this process lives.
_children: dict[int, subprocess.Popen[bytes]] = {}


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command's name may hold spaces and parentheses, so count from its last parenthesis.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def program_of(pid: int) -> str:
    """The name of the program that a process runs."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty where it may not be read."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in os.fsdecode(data).split("\0") if entry)
    return {name: value for name, _, value in pairs}


def every_pid() -> list[int]:
    """All processes of this machine, the oldest first."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    ages = {pid: start_ticks(pid) for pid in pids}
    return sorted((pid for pid in pids if ages[pid] is not None), key=lambda pid: (ages[pid], pid))


def boot_id() -> str:
    """What tells one boot of this machine from the next."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _ended_within(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


@contextlib.contextmanager
def held(pid: int) -> Iterator[int | None]:
    """A descriptor that means this very process, even when its pid is given to another."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def end(descriptor: int, *, grace_s: float) -> None:
    """End a held process, first asking, then not asking; returns when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        if grace_s > 0:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            # A stopped process would hear nothing before its grace is over.
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            if _ended_within(descriptor, grace_s):
                return
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        _ended_within(descriptor, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Daemon:
    """One daemon of a folder: how it is started, and how it is known."""

    name: str
    folder: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]
    grace_s: float = 10.0
    needs: tuple[Path, ...] = ()
    """Files without which the running daemon is of no use."""

    @property
    def program(self) -> str:
        return Path(self.command[0]).name

    @property
    def mark(self) -> str:
        return f"{self.name}:{self.folder}"

    @property
    def record(self) -> Path:
        return self.folder / "run" / f"{self.name}.json"

    @property
    def output(self) -> Path:
        """What the daemon printed since its last start."""
        return self.folder / "log" / f"{self.name}.out"

    def is_me(self, pid: int) -> bool:
        """Whether a living process is this daemon and nothing else."""
        return (
            start_ticks(pid) is not None
            and program_of(pid) == self.program
            and environment_of(pid).get(MARK) == self.mark
        )

    def recorded(self) -> int | None:
        """The pid in the pid file, if the process that was meant is still the one that has it."""
        match read_json(self.record):
            case {"pid": int(pid), "started": int(started), "boot": str(boot)}:
                same = boot == boot_id() and started == start_ticks(pid)
                return pid if same and self.is_me(pid) else None
        return None

    def pid(self) -> int | None:
        """The pid of the running daemon, found even where its pid file is lost."""
        return self.recorded() or next((pid for pid in every_pid() if self.is_me(pid)), None)

    def works(self) -> bool:
        """Whether the daemon runs and still has the files it needs."""
        return self.pid() is not None and all(path.exists() for path in self.needs)

    def launch(self) -> int:
        """Start the daemon in a session of its own."""
        with open(self.output, "wb") as output:
            child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**self.environment, MARK: self.mark},
                start_new_session=True,
                umask=0o022,
            )
        _children[child.pid] = child
        record = {"pid": child.pid, "started": start_ticks(child.pid), "boot": boot_id()}
        write_json(self.record, record, durable=False)
        return child.pid

    def stop(self, *, kill: bool = False) -> bool:
        """End the daemon, if it runs; says whether it did."""
        pid = self.pid()
        ended = False
        if pid is not None:
            with held(pid) as descriptor:
                # Asked again while held: the pid may have changed hands since the look.
                if descriptor is not None and self.is_me(pid):
                    end(descriptor, grace_s=0 if kill else self.grace_s)
                    ended = True
            reap(pid)
        self.record.unlink(missing_ok=True)
        return ended


def reap(pid: int) -> None:
    """Take leave of a child that ended."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]


def _ancestors() -> set[int]:
    """This process and all it descends from."""
    found, pid = set(), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def kill_where(belongs: Callable[[Mapping[str, str]], bool]) -> int:
    """Kill what belongs by its environment, but never this process or its parents."""
    spared = _ancestors()
    killed = 0
    for pid in every_pid():
        if pid in spared or not belongs(environment_of(pid)):
            continue
        with held(pid) as descriptor:
            if descriptor is not None and belongs(environment_of(pid)):
                end(descriptor, grace_s=0)
                killed += 1
    return killed
