"""What a development cluster asks of a machine and a folder, checked before it starts."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from hpckit.errors import ClusterError

INSTALL = "apt-get install -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server"
PROGRAMS = (
    *("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd"),
    *("sacctmgr", "scancel", "scontrol", "sinfo", "squeue"),
)
OWN_NAMES = {
    *("db", "db.broken", "db.new", "db.sock", "db.sock.lock", "db.tmp", "dev", "etc"),
    *("lock", "log", "munge", "run", "spool", "state"),
}
LOOPBACK = "127.0.0.1"
SOCKET_PATH_LIMIT = 107
# The longest socket is slurmstepd's: <node>_<job>.<step>, the step with ten digits.
LONGEST_SOCKET = "/spool/n1/n1_99999999.4294967295"


def program_path() -> str:
    """Where programs are looked for: `su` without a dash leaves the sbin folders out."""
    return os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def find_program(name: str) -> str | None:
    """The full path of a program, or None."""
    return shutil.which(name, path=program_path())


def require_programs(find: Callable[[str], str | None] = find_program) -> None:
    """Refuse a machine without Slurm, munge and MariaDB, and say how to get them."""
    missing = [name for name in PROGRAMS if find(name) is None]
    if missing:
        raise ClusterError(
            f"the development cluster needs programs that are not here: {', '.join(missing)}",
            f"install them: {INSTALL}",
        )


def require_root() -> None:
    """Refuse a user who cannot start Slurm's daemons or make device nodes."""
    if os.geteuid() != 0:
        raise ClusterError(
            f"the development cluster runs as root, and this is user {os.geteuid()}",
            "run it with sudo, or in a container or a virtual machine of your own",
        )


def require_folder(folder: Path) -> None:
    """Refuse a folder that cannot hold a cluster, or that holds something else."""
    if not re.fullmatch(r"[A-Za-z0-9_./+~-]+", str(folder)):
        raise ClusterError(
            f"Slurm's configuration cannot name the folder {str(folder)!r}",
            "choose one of letters, digits and . _ + ~ - with --folder, such as /tmp/hpckit",
        )
    room = SOCKET_PATH_LIMIT - len(LONGEST_SOCKET)
    if len(str(folder)) > room:
        raise ClusterError(
            f"the folder {folder} is {len(str(folder))} characters long, and the sockets in it"
            f" would pass the {SOCKET_PATH_LIMIT} that Unix allows",
            f"choose one of at most {room} characters with --folder, such as /tmp/hpckit",
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ClusterError(f"{folder} is not a folder", "choose another with --folder")
    strangers = sorted({path.name for path in folder.iterdir()} - OWN_NAMES)
    if strangers:
        raise ClusterError(
            f"the folder {folder} holds what is no cluster's: {', '.join(strangers[:3])}",
            "choose an empty one with --folder",
        )


def require_loopback_name(host: str) -> None:
    """Refuse a machine whose name does not lead to 127.0.0.1, the only address Slurm could use.

    Slurm binds to what the machine's name leads to, or to every address there is. Debian's
    127.0.1.1 will not do: connections to it come from 127.0.0.1, where srun then is not found.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
        address = str(found[0][4][0])
    except OSError:
        address = "nowhere"
    if address != LOOPBACK:
        raise ClusterError(
            f"this machine's name, {host}, leads to {address}, and the cluster listens on"
            f" {LOOPBACK} only",
            f"echo '{LOOPBACK} {host}' >> /etc/hosts",
        )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those the kernel gives to outgoing connections."""
    found: list[int] = []
    for port in random.sample(range(20000, 32000), 1000):
        # Bound to every address, to keep clear of those who listen on another one too.
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterError(f"there are no {count} free ports between 20000 and 32000")


def make_devices(folder: Path, count: int) -> None:
    """Device nodes that pass for GPUs: Slurm only counts them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"gpu{number}"
        if path.is_char_device():
            continue
        path.unlink(missing_ok=True)
        try:
            # The null device: whoever opens one by mistake does no harm.
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError as error:
            raise ClusterError(
                f"device nodes may not be made here: {path}",
                "a container needs the capability MKNOD",
            ) from error
