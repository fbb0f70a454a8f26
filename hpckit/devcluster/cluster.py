"""A real Slurm on one machine: two nodes with make-believe GPUs, accounting, all in one folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hpckit.devcluster.daemons import MARK, Daemon, kill_where
from hpckit.devcluster.layout import CLUSTER, DAEMONS, NODES, Layout
from hpckit.devcluster.machine import (
    require_folder,
    require_loopback_name,
    require_programs,
    require_root,
)
from hpckit.devcluster.status import ClusterStatus, DaemonStatus, read_nodes, read_partitions
from hpckit.devcluster.tools import Tools, accepts, last_lines
from hpckit.errors import ClusterError

READY_S = 30.0
# How often a new cluster chooses other ports, where one was taken before its daemon listened on it.
PORT_TRIES = 3
TAKEN = "Address already in use"


def default_folder() -> Path:
    """Where the cluster lives unless told otherwise."""
    if chosen := os.environ.get("HPCKIT_CLUSTER_DIR"):
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "hpckit" / "cluster"


@contextlib.contextmanager
def in_sentences() -> Iterator[None]:
    """Turn an operating system's refusal into a sentence about the file."""
    try:
        yield
    except OSError as error:
        raise ClusterError(
            f"{error.filename or 'the cluster'}: {error.strerror or error}",
            "another folder can be chosen with --folder",
        ) from error


def silent(line: str) -> None:
    """Tell nobody about progress."""


class DevCluster:
    """The cluster of one folder; several of these may look at the same one."""

    def __init__(
        self, folder: str | Path | None = None, *, say: Callable[[str], None] = silent
    ) -> None:
        # Without links: the daemons are known by this very text.
        self.folder = Path(folder or default_folder()).expanduser().resolve()
        self._layout = Layout(self.folder)
        self._lock = self.folder / "lock"
        self._say = say
        self._tools = Tools(self._layout.environment())

    def env(self) -> dict[str, str]:
        """What a shell needs in its environment to use this cluster."""
        with in_sentences():
            if not self._layout.slurm_conf.exists():
                raise ClusterError(f"there is no cluster in {self.folder}", "hpckit cluster up")
        return {"SLURM_CONF": str(self._layout.slurm_conf)}

    def status(self) -> ClusterStatus:
        """Which daemons run, and what the controller says about nodes and partitions."""
        with in_sentences():
            pids = {name: self._daemon(name).pid() for name in DAEMONS}
        nodes = read_nodes(self._tools.run) if self._can_ask() else ()
        return ClusterStatus(
            folder=str(self.folder),
            slurm_conf=str(self._layout.slurm_conf),
            daemons=tuple(DaemonStatus(name=name, pid=pid) for name, pid in pids.items()),
            nodes=nodes,
            # A controller that said nothing about nodes would be silent on these for as long.
            partitions=read_partitions(self._tools.run) if nodes else (),
        )

    def up(self) -> list[str]:
        """Bring up the cluster, or what is dead of it; the names of the daemons started."""
        require_root()
        require_programs()
        require_folder(self.folder)
        require_loopback_name(socket.gethostname())
        with in_sentences():
            self.folder.mkdir(parents=True, exist_ok=True)
            # The database trusts whoever reaches its socket.
            self.folder.chmod(0o700)
            self._lock.touch()
            with self._locked():
                return self._bring_up()

    def down(self) -> list[str]:
        """End all jobs and daemons; the names of the daemons ended."""
        require_root()
        with in_sentences(), self._locked():
            return self._end_everything()

    def start(self, name: str) -> None:
        """Start one daemon of a cluster that is up, and wait until it answers."""
        require_root()
        self.env()
        with in_sentences(), self._locked():
            if not self._daemon(name).works():
                self._start(name, old_database=self._layout.has_database())
            if self._daemon("slurmctld").pid() is not None:
                self._await_nodes([node for node in NODES if name == f"slurmd-{node}"])

    def stop(self, name: str, *, kill: bool = False) -> bool:
        """End one daemon, without its leave where it is to be killed; says whether it ran."""
        require_root()
        with in_sentences(), self._locked():
            return self._daemon(name).stop(kill=kill)

    # Up

    def _bring_up(self) -> list[str]:
        working = {name for name in DAEMONS if self._daemon(name).works()}
        if not (working and self._layout.is_whole()):
            working = set()
            self._end_everything()
        started = [name for name in DAEMONS if name not in working]
        if working:
            if started:
                self._say(f"not running: {', '.join(started)}")
            self._start_all(started)
            return started
        for tries_left in reversed(range(PORT_TRIES)):
            self._layout.write_configuration()
            try:
                self._start_all(started)
                break
            except BaseException as error:
                self._kill_leftovers()
                if not (isinstance(error, ClusterError) and TAKEN in error.message and tries_left):
                    raise
            self._say("a port was taken in the meantime; choosing others")
        return started

    def _start_all(self, names: Sequence[str]) -> None:
        """Start daemons, or none of them."""
        old_database = self._layout.has_database()
        try:
            self._layout.make_folders()
            for name in names:
                self._start(name, old_database=old_database)
            self._await_nodes(NODES)
        except BaseException:
            self._end(names)
            raise

    def _start(self, name: str, *, old_database: bool) -> None:
        if name == "mariadbd" and not self._layout.has_database():
            self._make_database()
        try:
            self._launch(name)
        except ClusterError as error:
            is_refused = "fatal:" in self._tools.refusal or TAKEN in error.message
            if is_refused or not (old_database and name in ("mariadbd", "slurmdbd")):
                raise
            self._start_on_new_database(name)
        if name == "slurmdbd":
            self._register_cluster()

    def _start_on_new_database(self, last: str) -> None:
        """A database that is half deleted would keep the cluster from ever starting again."""
        aside = self.folder / "db.broken"
        self._end(["mariadbd", "slurmdbd"])
        self._say(f"{last} does not start on the old accounting database; that is now {aside}")
        shutil.rmtree(aside, ignore_errors=True)
        self._layout.database.rename(aside)
        try:
            self._make_database()
            for name in ("mariadbd", "slurmdbd")[: 1 + (last == "slurmdbd")]:
                self._launch(name)
        except BaseException:
            # It was not the database's fault: its history is worth keeping.
            self._end(["mariadbd", "slurmdbd"])
            shutil.rmtree(self._layout.database, ignore_errors=True)
            aside.rename(self._layout.database)
            raise

    def _make_database(self) -> None:
        """Made beside its place and renamed, so that half a database is never taken for one."""
        self._say("making the accounting database")
        new = self.folder / "db.new"
        for old in (new, self._layout.database):
            shutil.rmtree(old, ignore_errors=True)
        made = self._tools.run(
            "mariadb-install-db",
            f"--defaults-file={self.folder}/etc/mariadb.cnf",
            f"--datadir={new}",
            "--user=root",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
            limit_s=120,
        )
        if made.returncode != 0:
            why = last_lines(made.stdout + made.stderr)
            raise ClusterError(f"mariadb-install-db failed:\n{why}")
        new.rename(self._layout.database)

    def _register_cluster(self) -> None:
        known = self._tools.run("sacctmgr", "--noheader", "--parsable2", "show", "cluster", CLUSTER)
        if not known.stdout.strip():
            added = self._tools.run("sacctmgr", "--immediate", "--quiet", "add", "cluster", CLUSTER)
            if added.returncode != 0:
                raise ClusterError(f"sacctmgr add cluster failed:\n{last_lines(added.stderr)}")

    def _launch(self, name: str) -> None:
        """Start a daemon and wait until it answers."""
        self._say(f"starting {name}")
        daemon = self._daemon(name)
        daemon.stop()
        self._tools.refusal = ""
        daemon.launch()
        self._await(daemon, lambda: self._answers(name))

    def _await(self, daemon: Daemon, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_S
        while not done():
            refusal = ""
            if daemon.pid() is None:
                what = "ended as soon as it was started"
            elif "fatal:" in self._tools.refusal:
                # A configuration that Slurm does not take: waiting would change nothing.
                what, refusal = "cannot be asked", self._tools.refusal
            elif time.monotonic() > deadline:
                what = f"does not answer after {READY_S:.0f} s"
            else:
                time.sleep(0.05)
                continue
            # Read only now, when all is said.
            log = refusal or daemon.output.read_text(errors="replace")
            where = "a tool said" if refusal else f"the end of {daemon.output}"
            raise ClusterError(f"{daemon.name} {what}; {where}:\n{last_lines(log)}")

    def _answers(self, name: str) -> bool:
        match name:
            case "munged":
                return accepts(self._layout.munge_socket)
            case "mariadbd":
                return accepts(self._layout.database_socket)
            case "slurmdbd":
                return self._tools.succeed("sacctmgr", "--noheader", "show", "cluster")
            case "slurmctld":
                return self._tools.succeed("scontrol", "ping")
        # Nodes take a moment to register; all of them are waited for at once, later.
        return self._daemon(name).pid() is not None

    def _await_nodes(self, names: Sequence[str]) -> None:
        def all_answer() -> bool:
            answering = {node.name for node in read_nodes(self._tools.run) if node.answers}
            return answering.issuperset(names)

        for name in names:
            self._await(self._daemon(f"slurmd-{name}"), all_answer)

    # Down

    def _end_everything(self) -> list[str]:
        if self._can_ask():
            self._end_jobs()
        ended = self._end(DAEMONS)
        self._kill_leftovers()
        return ended

    def _end(self, names: Sequence[str]) -> list[str]:
        """End daemons in the reverse of the order in which they need each other."""
        ended = []
        for name in reversed(names):
            if self._daemon(name).stop():
                self._say(f"ended {name}")
                ended.append(name)
        return ended

    def _end_jobs(self) -> None:
        """Let the controller see the jobs end, and write it into the accounting, while it can."""
        jobs = sorted(
            set(self._tools.run("squeue", "--noheader", "--format=%F").stdout.split()), key=int
        )
        if not jobs:
            return
        self._say(f"ending jobs: {', '.join(jobs)}")
        self._tools.run("scancel", *jobs)
        if not self._queue_empties(within_s=1):
            kill_where(self._is_job)
            self._queue_empties(within_s=4)

    def _queue_empties(self, *, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self._tools.run("squeue", "--noheader").stdout.strip():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _kill_leftovers(self) -> None:
        """Step daemons and processes of jobs outlive slurmd, and helpers a killed controller."""
        kill_where(lambda environment: self._is_helper(environment) or self._is_job(environment))

    def _is_helper(self, environment: Mapping[str, str]) -> bool:
        return environment.get(MARK, "").partition(":")[2] == str(self.folder)

    def _is_job(self, environment: Mapping[str, str]) -> bool:
        # A shell that was told of the cluster has the first of these; only a job has both.
        return (
            environment.get("SLURM_CONF") == str(self._layout.slurm_conf)
            and environment.get("SLURMD_NODENAME") in NODES
        )

    # The outside

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time: whoever comes second waits."""
        if not self._lock.exists():
            # Never in a folder that is no cluster's: nothing is written there.
            yield
            return
        with open(self._lock, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("another hpckit is at work on this cluster; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _can_ask(self) -> bool:
        # Without munged or a configuration every tool tries for ten seconds before it fails.
        works = all(self._daemon(name).works() for name in ("munged", "slurmctld"))
        return works and self._layout.slurm_conf.exists()

    def _daemon(self, name: str) -> Daemon:
        return self._layout.daemon(name)
