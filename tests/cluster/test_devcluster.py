"""The development cluster is a real Slurm, is kept whole, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpckit.devcluster import DevCluster, default_folder
from hpckit.devcluster.daemons import environment_of, every_pid, start_ticks
from hpckit.devcluster.layout import DAEMONS
from hpckit.devcluster.machine import (
    LONGEST_SOCKET,
    free_ports,
    require_loopback_name,
    require_programs,
)
from hpckit.devcluster.status import NodeStatus, PartitionStatus, parse_nodes, parse_partitions
from hpckit.errors import ClusterError

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from hpckit.cli.cluster import cluster; cluster()"]


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def hpckit_cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )


def until(done: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def processes_of(folder: Path) -> list[int]:
    """Every process that was started with anything of a folder in its environment."""
    told = str(folder)
    return [
        pid
        for pid in every_pid()
        if pid != os.getpid() and any(told in value for value in environment_of(pid).values())
    ]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of the cluster's business."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


# A real Slurm


def test_a_step_runs_on_both_nodes(slurm: DevCluster) -> None:
    printed = output("srun", "--nodes=2", "bash", "-c", "echo $SLURMD_NODENAME $(hostname)")
    name = output("hostname")
    assert sorted(printed.splitlines()) == [f"n1 {name}", f"n2 {name}"]


def test_gpus_of_a_type_are_handed_out_by_number(slurm: DevCluster) -> None:
    asked = ["srun", "--nodes=1", "--gpus-per-node=a100:2"]
    visible = output(*asked, "bash", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert visible == "0,1"


def test_more_gpus_than_a_node_has_are_refused(slurm: DevCluster) -> None:
    refused = subprocess.run(
        ["srun", "--gpus-per-node=a100:5", "true"], capture_output=True, text=True, timeout=30
    )
    assert "Requested node configuration is not available" in refused.stderr


def test_accounting_shows_how_a_job_ended(slurm: DevCluster) -> None:
    job = output("sbatch", "--parsable", "--output=/dev/null", "--wrap=exit 7")
    ask = ["sacct", "--noheader", "--allocations", f"--jobs={job}", "--format=State,ExitCode", "-P"]
    until(lambda: output(*ask) == "FAILED|7:0")


def test_the_tasks_of_an_array_run_one_after_another(slurm: DevCluster, tmp_path: Path) -> None:
    said = tmp_path / "said"
    wrap = f"echo $SLURM_ARRAY_TASK_ID begins >> {said}; sleep .3; echo over >> {said}"
    job = output("sbatch", "--parsable", "--output=/dev/null", "--array=1-2%1", f"--wrap={wrap}")
    ask = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    until(lambda: output(*ask).split() == ["COMPLETED", "COMPLETED"])
    assert said.read_text().splitlines() == ["1 begins", "over", "2 begins", "over"]


def test_only_high_takes_a_node_from_low(slurm: DevCluster) -> None:
    whole = ["--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 60"]
    low = output("sbatch", "--parsable", "--partition=low", *whole)
    state = ["squeue", "--noheader", "--states=all", "--format=%T"]
    until(lambda: output(*state, f"--jobs={low}") == "RUNNING")
    main = output("sbatch", "--parsable", "--partition=main", *whole)
    # The scheduler has looked at it once it can say why it waits.
    until(lambda: output("squeue", "--noheader", f"--jobs={main}", "--format=%r") == "Resources")
    assert "PreemptTime=None" in output("scontrol", "show", "job", low)
    output("scancel", main)
    high = output("sbatch", "--parsable", "--partition=high", *whole)
    until(lambda: "PreemptTime=2" in output("scontrol", "show", "job", low), 20)
    output("scancel", low, high)
    until(lambda: output("squeue", "--noheader") == "")


def test_all_daemons_listen_on_loopback_only(slurm: DevCluster) -> None:
    pids = {daemon.pid for daemon in slurm.status().daemons}
    lines = output("ss", "--listening", "--tcp", "--numeric", "--processes", "--no-header")
    own = [line for line in lines.splitlines() if any(f"pid={pid}," in line for pid in pids)]
    assert len(own) == 4
    assert all(line.split()[3].startswith("127.") for line in own)


# Kept whole


def test_no_daemon_has_a_file_open_where_another_cluster_has_its_own(slurm: DevCluster) -> None:
    ours = tuple(f"{path}/" for path in (slurm.folder, "/dev", "/proc", "/sys", sys.prefix))
    files: list[str] = []
    for pid in (daemon.pid for daemon in slurm.status().daemons if daemon.pid):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                files.append(os.readlink(link))
    assert [path for path in files if path.startswith(str(slurm.folder))]
    assert [path for path in files if path.startswith("/") and not path.startswith(ours)] == []


def test_up_twice_starts_nothing_and_says_so(slurm: DevCluster) -> None:
    before = slurm.status().daemons
    again = hpckit_cluster("up", "--folder", str(slurm.folder))
    assert (again.returncode, again.stdout) == (0, ""), again.stderr
    assert "already up" in again.stderr
    assert slurm.status().daemons == before


def test_up_starts_what_is_dead_and_leaves_the_rest_alone(slurm: DevCluster) -> None:
    before = {daemon.name: daemon.pid for daemon in slurm.status().daemons}
    assert slurm.stop("munged", kill=True)
    # A killed controller forgets its last seconds, and the tests before this one had jobs then.
    assert slurm.stop("slurmctld")
    assert slurm.status().state == "degraded"
    assert slurm.up() == ["munged", "slurmctld"]
    after = slurm.status()
    assert after.state == "up"
    changed = {daemon.name for daemon in after.daemons if daemon.pid != before[daemon.name]}
    assert changed == {"munged", "slurmctld"}
    assert output("srun", "echo", "works") == "works"


def test_one_daemon_can_be_ended_and_started(slurm: DevCluster) -> None:
    assert slurm.stop("slurmd-n2")
    assert not slurm.stop("slurmd-n2")
    slurm.start("slurmd-n2")
    assert output("srun", "--nodelist=n2", "echo", "works") == "works"


def test_an_unknown_daemon_is_named_with_the_known_ones(slurm: DevCluster) -> None:
    with pytest.raises(ClusterError, match=r"no daemon is called 'slurmd'.*\n.*slurmd-n1"):
        slurm.stop("slurmd")


def test_status_tells_all_as_one_object(slurm: DevCluster) -> None:
    told = hpckit_cluster("status", "--json", "--folder", str(slurm.folder))
    data = json.loads(told.stdout)
    assert told.returncode == 0
    assert data["state"] == "up"
    assert [daemon["name"] for daemon in data["daemons"]] == list(DAEMONS)
    assert [(node["name"], node["gres"]) for node in data["nodes"]] == [
        ("n1", "gpu:a100:4"),
        ("n2", "gpu:a100:4"),
    ]
    assert [part["name"] for part in data["partitions"] if part["default"]] == ["main"]


def test_env_can_be_evaluated_by_a_shell(slurm: DevCluster) -> None:
    printed = hpckit_cluster("env", "--folder", str(slurm.folder)).stdout
    shell = f"unset SLURM_CONF; {printed}\nsinfo --noheader --summarize --format=%P"
    assert output("bash", "-c", shell).split() == ["main*", "low", "high"]


# Nothing left behind, nobody else's touched


def test_down_ends_jobs_and_daemons_and_keeps_the_history(other_folder: Path) -> None:
    cluster = DevCluster(other_folder)
    assert cluster.up() == list(DAEMONS)
    environment = {**os.environ, **cluster.env()}

    def tell(*command: str) -> str:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, timeout=30
        ).stdout.strip()

    # Deaf to SIGTERM, and a child that left its session.
    stubborn = "trap '' TERM; setsid sleep 333 & while :; do sleep 1; done"
    job = tell("sbatch", "--parsable", "--output=/dev/null", f"--wrap={stubborn}")
    until(lambda: tell("squeue", "--noheader", "--format=%T") == "RUNNING")
    # A shell that was told of the cluster is not the cluster's.
    shell = subprocess.Popen(["sleep", "300"], env=environment)
    try:
        until(lambda: len(processes_of(other_folder)) > len(DAEMONS) + 3)
        assert cluster.down() == list(reversed(DAEMONS))
        assert cluster.status().state == "down"
        assert processes_of(other_folder) == [shell.pid]
        assert cluster.down() == []
    finally:
        shell.kill()
        shell.wait()
    cluster.up()
    ask = ["sacct", "--noheader", "--allocations", f"--jobs={job}", "--format=State", "-P"]
    assert tell(*ask).startswith("CANCELLED")


def test_a_stranger_with_the_pid_of_a_daemon_is_left_alone(
    other_folder: Path, bystander: subprocess.Popen[bytes]
) -> None:
    (other_folder / "run").mkdir()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for name in DAEMONS:
        record = {"pid": bystander.pid, "started": start_ticks(bystander.pid), "boot": boot}
        (other_folder / "run" / f"{name}.json").write_text(json.dumps(record))
    assert DevCluster(other_folder).status().state == "down"
    assert DevCluster(other_folder).down() == []
    assert bystander.poll() is None


def test_a_failed_up_ends_what_it_started_and_shows_why(
    other_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    for template in (REPOSITORY / "slurm" / "dev").iterdir():
        (templates / template.name).write_text(template.read_text())
    with open(templates / "slurm.conf", "a") as stream:
        stream.write("Nonsense=1\n")
    monkeypatch.setattr("hpckit.devcluster.layout.TEMPLATES", templates)
    with pytest.raises(ClusterError, match=r"(?s)a tool said:.*Nonsense"):
        DevCluster(other_folder).up()
    assert processes_of(other_folder) == []


def test_a_new_cluster_takes_other_ports_where_one_was_taken_in_the_meantime(
    other_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        choices = iter([[taken, *free_ports(3)], free_ports(4)])
        monkeypatch.setattr("hpckit.devcluster.layout.free_ports", lambda count: next(choices))
        cluster = DevCluster(other_folder, say=told.append)
        cluster.up()
    assert cluster.status().state == "up"
    assert "a port was taken in the meantime; choosing others" in told


def test_a_daemon_that_dies_at_its_start_is_shown_with_the_end_of_its_log(
    slurm: DevCluster,
) -> None:
    key = slurm.folder / "munge" / "key"
    good = key.read_bytes()
    slurm.stop("munged")
    key.write_bytes(b"short")
    try:
        with pytest.raises(ClusterError, match=r"(?s)munged ended .*munged.out:\n.*at least 32"):
            slurm.start("munged")
    finally:
        key.write_bytes(good)
        slurm.start("munged")


def test_a_half_deleted_folder_is_mended_once_by_two_ups_and_ended_without_its_controller(
    other_folder: Path,
) -> None:
    cluster = DevCluster(other_folder)
    cluster.up()
    cluster.stop("slurmctld", kill=True)
    for name in ("run", "db", "etc"):
        subprocess.run(["rm", "-r", other_folder / name], check=True)
    said: list[str] = []
    started: list[list[str]] = []
    both = [
        threading.Thread(
            target=lambda: started.append(DevCluster(other_folder, say=said.append).up())
        )
        for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(started) == [[], list(DAEMONS)]
    assert "another hpckit is at work on this cluster; waiting for it" in said
    assert cluster.status().state == "up"
    # With the controller dead nobody tells the job, and slurmd would leave it running.
    environment = {**os.environ, **cluster.env()}
    job = ["sbatch", "--output=/dev/null", "--wrap=sleep 300"]
    subprocess.run(job, env=environment, check=True)
    until(lambda: len(processes_of(other_folder)) == len(DAEMONS) + 4)
    cluster.stop("slurmctld", kill=True)
    cluster.down()
    assert processes_of(other_folder) == []


# Refusals


def test_another_user_than_root_is_refused_with_a_way_out(tmp_path: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(ClusterError, match=r"runs as root, and this is user 65534\n.*sudo"):
            DevCluster(tmp_path / "c").up()
    finally:
        os.seteuid(0)


def test_missing_packages_are_told_with_the_command_that_installs_them() -> None:
    with pytest.raises(ClusterError, match=r"munged, mariadbd.*\n.*apt-get install -y .*slurm-wlm"):
        require_programs(lambda name: None)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("/tmp/hpckit with space", "cannot name the folder '/tmp/hpckit with space'"),
        ("/tmp/hpckit[1]", "cannot name the folder"),
        ("/tmp/" + "x" * (108 - len(LONGEST_SOCKET) - 5), "at most 75 characters"),
        ("/", "holds what is no cluster's"),
        (__file__, "is not a folder"),
    ],
)
def test_a_folder_that_cannot_hold_a_cluster_is_refused(folder: str, message: str) -> None:
    with pytest.raises(ClusterError) as refused:
        DevCluster(folder).up()
    assert message in str(refused.value)
    assert folder in ("/", __file__) or not Path(folder).exists()


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.1.1"])
def test_a_machine_whose_name_leads_elsewhere_than_to_loopback_is_refused(address: str) -> None:
    require_loopback_name("localhost")
    with pytest.raises(ClusterError, match=rf"leads to {address}, .*\n +echo .* >> /etc/hosts"):
        require_loopback_name(address)


def test_env_without_a_cluster_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"there is no cluster in .*\n.*hpckit cluster up"):
        DevCluster(tmp_path).env()


# Where, and what sinfo says


def test_the_folder_is_the_state_folder_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HPCKIT_CLUSTER_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_folder() == Path.home() / ".local/state/hpckit/cluster"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert default_folder() == Path("/var/state/hpckit/cluster")
    monkeypatch.setenv("HPCKIT_CLUSTER_DIR", str(tmp_path))
    assert default_folder() == tmp_path
    printed = hpckit_cluster("status")
    assert printed.stdout.startswith(f"down  {tmp_path}\n")
    assert printed.returncode == 1


def test_a_node_is_told_once_and_does_not_answer_with_an_asterisk() -> None:
    line = "n1|idle*|8|8192|gpu:a100:4\n"
    (node,) = parse_nodes(line * 3)
    assert node == NodeStatus(name="n1", state="idle*", cpus=8, memory_mb=8192, gres="gpu:a100:4")
    assert not node.answers


def test_the_default_partition_is_told_without_its_asterisk() -> None:
    (partition,) = parse_partitions("main*|up|2-00:00:00|n[1-2]\n")
    assert partition == PartitionStatus(
        name="main", default=True, state="up", time_limit="2-00:00:00", nodes="n[1-2]"
    )


def test_the_printed_hint_names_the_folder_that_was_asked_for(slurm: DevCluster) -> None:
    told = hpckit_cluster("up", "--folder", str(slurm.folder)).stderr
    assert f'eval "$(hpckit cluster env --folder {shlex.quote(str(slurm.folder))})"' in told
