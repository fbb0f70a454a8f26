"""hpckit cluster: a real Slurm on this machine, to develop and test against."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hpckit.devcluster import DevCluster
    from hpckit.devcluster.status import ClusterStatus

folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    envvar="HPCKIT_CLUSTER_DIR",
    show_envvar=True,
    help="Where the cluster lives  [default: ~/.local/state/hpckit/cluster]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group()
def cluster() -> None:
    """A real Slurm on this machine: two nodes of four make-believe GPUs, with accounting."""


@cluster.command()
@folder_option
@json_option
def up(folder: Path | None, as_json: bool) -> None:
    """Start the cluster, or what is dead of it."""
    here = _cluster(folder)
    begun = time.monotonic()
    started = here.up()
    seconds = round(time.monotonic() - begun, 1)
    if as_json:
        _print_json({**_as_data(here.status()), "started": started, "seconds": seconds})
        return
    _say(f"up after {seconds} s in {here.folder}" if started else f"already up in {here.folder}")
    _say('  use it from this shell: eval "$(hpckit cluster env' + _folder_argument(folder) + ')"')


@cluster.command()
@folder_option
def down(folder: Path | None) -> None:
    """End the cluster with all its jobs; its accounting stays."""
    here = _cluster(folder)
    _say(f"down in {here.folder}" if here.down() else f"was not up in {here.folder}")


@cluster.command()
@folder_option
@json_option
@click.pass_context
def status(context: click.Context, folder: Path | None, as_json: bool) -> None:
    """Show daemons, nodes and partitions; exit code 1 unless all of it is up."""
    found = _cluster(folder).status()
    if as_json:
        _print_json(_as_data(found))
    else:
        _print_status(found)
    context.exit(0 if found.state == "up" else 1)


@cluster.command()
@folder_option
@json_option
def env(folder: Path | None, as_json: bool) -> None:
    """Print what a shell must export in order to use the cluster."""
    here = _cluster(folder)
    variables = here.env()
    if here.status().state == "down":
        _say(f"the cluster in {here.folder} is down; hpckit cluster up starts it")
    if as_json:
        _print_json(variables)
        return
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _cluster(folder: Path | None) -> DevCluster:
    # Imported late: `hpckit --help` loads this file.
    from hpckit.devcluster import DevCluster

    return DevCluster(folder, say=_say)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _folder_argument(folder: Path | None) -> str:
    chosen_here = click.get_current_context().get_parameter_source("folder")
    by_option = chosen_here is click.core.ParameterSource.COMMANDLINE
    return f" --folder {shlex.quote(str(folder))}" if by_option else ""


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))


def _as_data(found: ClusterStatus) -> dict[str, Any]:
    return {"state": found.state, **dataclasses.asdict(found)}


def _print_status(found: ClusterStatus) -> None:
    click.echo(f"{found.state}  {found.folder}")
    for daemon in found.daemons:
        click.echo(f"  {daemon.name:<10} {f'pid {daemon.pid}' if daemon.pid else 'not running'}")
    for node in found.nodes:
        size = f"{node.cpus} CPUs  {node.memory_mb} MB  {node.gres}"
        click.echo(f"  node {node.name:<10} {node.state:<10} {size}")
    for partition in found.partitions:
        default = "  default" if partition.default else ""
        limit = f"at most {partition.time_limit}"
        click.echo(f"  partition {partition.name:<5} {partition.state:<10} {limit}{default}")
