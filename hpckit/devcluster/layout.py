"""What stands in the folder of a development cluster, and which daemons live off it."""

from __future__ import annotations

import os
import socket
import string
from dataclasses import dataclass
from pathlib import Path

from hpckit.devcluster.daemons import Daemon
from hpckit.devcluster.machine import LOOPBACK, find_program, free_ports, make_devices, program_path
from hpckit.errors import ClusterError
from hpckit.files import write_atomic

TEMPLATES = Path(__file__).parent.parent / "slurm_files" / "dev"
CONFIGURATION = ("slurm.conf", "gres.conf", "slurmdbd.conf", "mariadb.cnf")
CLUSTER = "hpckit"
NODES = ("n1", "n2")
GPUS_PER_NODE = 4
# In the order in which they need each other.
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd-n1", "slurmd-n2")
PORTS = ("port_slurmctld", "port_slurmdbd", "port_n1", "port_n2")


@dataclass(frozen=True, slots=True)
class Layout:
    """The folder of a cluster and the places in it."""

    folder: Path

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def database(self) -> Path:
        return self.folder / "db"

    @property
    def database_socket(self) -> Path:
        return self.folder / "db.sock"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "munge" / "munge.sock"

    def has_database(self) -> bool:
        return (self.database / "mysql").is_dir()

    def is_whole(self) -> bool:
        """Whether the files are there without which daemons that run are of no use."""
        written = [self.slurm_conf.with_name(name) for name in CONFIGURATION]
        return self.has_database() and all(path.exists() for path in written)

    def environment(self) -> dict[str, str]:
        """What daemons and tools see, with nothing of a job that hpckit may be called from."""
        kept = {name: os.environ[name] for name in ("HOME", "TZ") if name in os.environ}
        return {
            **kept,
            "PATH": program_path(),
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(self.slurm_conf),
            "MYSQL_UNIX_PORT": str(self.database_socket),
        }

    def write_configuration(self) -> None:
        """Fill in the templates, with ports that are free now."""
        host = socket.gethostname()
        values = {
            "cluster": CLUSTER,
            "folder": str(self.folder),
            "host": host.partition(".")[0],
            "address": LOOPBACK,
            **dict(zip(PORTS, free_ports(len(PORTS)), strict=True)),
        }
        self.slurm_conf.parent.mkdir(exist_ok=True)
        for name in CONFIGURATION:
            path = self.slurm_conf.with_name(name)
            template = string.Template((TEMPLATES / name).read_text())
            write_atomic(path, template.substitute(values))
            # slurmdbd refuses a configuration that others may read.
            path.chmod(0o600)

    def make_folders(self) -> None:
        """Make what daemons expect to find, where it is missing."""
        spools = (f"spool/{node}" for node in NODES)
        for name in ("db.tmp", "log", "run", "munge", "state", *spools):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for node in NODES:
            make_devices(self.folder / "dev" / node, GPUS_PER_NODE)
        key = self.folder / "munge" / "key"
        if not key.exists():
            with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(os.urandom(128))

    def daemon(self, name: str) -> Daemon:
        """How one of the daemons is started and known."""
        if name not in DAEMONS:
            raise ClusterError(f"no daemon is called {name!r}", f"there are {', '.join(DAEMONS)}")
        program, *arguments = self._command(name)
        return Daemon(
            name=name,
            folder=self.folder,
            command=(find_program(program) or program, *arguments),
            environment=self.environment(),
            needs=tuple(self._needs(name)),
            # A database that is killed must recover at its next start.
            grace_s=30 if name == "mariadbd" else 10,
        )

    def _command(self, name: str) -> list[str]:
        match name.partition("-"):
            case "munged", _, _:
                return [
                    *("munged", "--foreground", "--force", f"--socket={self.munge_socket}"),
                    f"--key-file={self.folder}/munge/key",
                    f"--seed-file={self.folder}/munge/seed",
                    f"--pid-file={self.folder}/run/munged.pid",
                ]
            case "mariadbd", _, _:
                return ["mariadbd", f"--defaults-file={self.folder}/etc/mariadb.cnf"]
            case "slurmd", _, node:
                return ["slurmd", "-D", "-N", node]
        return [name, "-D"]

    def _needs(self, name: str) -> list[Path]:
        match name.partition("-"):
            case "munged", _, _:
                return [self.munge_socket]
            case "mariadbd", _, _:
                return [self.database_socket]
            case "slurmd", _, node:
                return [self.folder / "spool" / node, self.folder / "dev" / node / "gpu0"]
            case "slurmctld", _, _:
                return [self.folder / "state"]
        return []
