"""Which options of sbatch a spec may set, and why hpckit keeps the others for itself."""

from __future__ import annotations

import difflib
import re
from typing import Any

from hpckit import yamlio
from hpckit.errors import Problem
from hpckit.model.kinds import BAD, Kind, Schema, Text, anchored, complain, described

NAME_PATTERN = "[a-z][a-z0-9_-]{0,63}"
_CHAIN = "hpckit chains the attempts of a run itself"
_LAUNCH = "hpckit starts the processes itself: use program.processes and resources"
_GPUS = "use resources.gpus_per_node"
_MEMORY = "use resources.memory"
_FILES = "hpckit names the files of each attempt"
_ANSWER = "hpckit reads sbatch's answer"
_VARIABLES = "use environment.variables"
_CLEAN = "the worker's environment is the one of hpckit submit"

MANAGED: dict[str, str] = {
    "account": "use resources.account",
    "array": _CHAIN,
    "chdir": "an attempt runs in the run's own copy of the code",
    "clusters": "hpckit watches one cluster, the one it submits to",
    "container": "use environment.container: the worker runs outside it",
    "container-id": "use environment.container: the worker runs outside it",
    "cpus-per-gpu": "use resources.cpus_per_gpu",
    "cpus-per-task": "use resources.cpus_per_node or resources.cpus_per_gpu",
    "dependency": _CHAIN,
    "error": _FILES,
    "export": _VARIABLES,
    "export-file": _VARIABLES,
    "get-user-env": _CLEAN,
    "gid": "a run belongs to whoever submits it",
    "gpus": _GPUS,
    "gpus-per-node": _GPUS,
    "gpus-per-socket": _GPUS,
    "gpus-per-task": _GPUS,
    "help": _ANSWER,
    "hold": "an attempt that is held would wait for a person at every restart",
    "input": "the worker reads no input",
    "job-name": "it carries the run's identity: use name",
    "kill-on-invalid-dep": _CHAIN,
    "mem": _MEMORY,
    "mem-per-cpu": _MEMORY,
    "mem-per-gpu": _MEMORY,
    "no-kill": "hpckit answers a lost node itself",
    "no-requeue": _CHAIN,
    "nodes": "use resources.nodes",
    "ntasks": _LAUNCH,
    "ntasks-per-core": _LAUNCH,
    "ntasks-per-gpu": _LAUNCH,
    "ntasks-per-node": _LAUNCH,
    "ntasks-per-socket": _LAUNCH,
    "open-mode": _FILES,
    "output": _FILES,
    "parsable": _ANSWER,
    "partition": "use resources.partition",
    "quiet": _ANSWER,
    "requeue": _CHAIN,
    "signal": "use checkpoint.before_end",
    "tasks-per-node": _LAUNCH,
    "test-only": "use hpckit submit --dry-run",
    "time": "use resources.time",
    "uid": "a run belongs to whoever submits it",
    "usage": _ANSWER,
    "verbose": _ANSWER,
    "version": _ANSWER,
    "wait": "use hpckit submit --follow",
    "wrap": "use program",
}
# What else sbatch 22.05 knows, some of what later versions and the pyxis plugin add. A site may
# have plugins of its own: only what is nearly one of these is taken for a slip.
_ALSO = """
    acctg-freq batch bb bbf begin cluster-constraint comment consolidate-segments constraint
    container-entrypoint container-env container-image container-mount-home container-mounts
    container-name container-remap-root container-save container-workdir container-writable
    contiguous core-spec cores-per-socket cpu-freq deadline delay-boot distribution exclude
    exclusive external-launcher extra extra-node-info gpu-bind gpu-freq gres gres-flags hint
    ignore-pbs licenses mail-type mail-user mcs-label mem-bind mincpus network nice
    nodefile nodelist oom-kill-step overcommit oversubscribe power prefer priority
    profile propagate qos reboot reservation resv-ports segment sockets-per-node
    spread-job stepmgr switches thread-spec threads-per-core time-min tmp tres-bind tres-per-job
    tres-per-node tres-per-socket tres-per-task use-min-nodes wait-all-nodes wckey
"""
KNOWN = frozenset(_ALSO.split())
# These ask for GPUs only in some of their values.
MAY_NAME_GPUS = ("gres", "tres-per-job", "tres-per-node", "tres-per-socket", "tres-per-task")
_VALUE = Text(one_line=True)


def refusal(option: str) -> str:
    """Why an option (with dashes) may not be set, or nothing."""
    if option in MANAGED:
        return f"hpckit manages --{option}: {MANAGED[option]}"
    # sbatch takes any unambiguous beginning for the whole: `arr` would be --array.
    for managed, reason in MANAGED.items():
        if managed.startswith(option):
            return f"is short for --{managed}, which hpckit manages: {reason}"
    if any(known.startswith(option) for known in KNOWN):
        return ""
    close = difflib.get_close_matches(option, KNOWN, n=1, cutoff=0.85)
    return f"is no option of sbatch; did you mean {close[0]!r}?" if close else ""


class SlurmOptions(Kind):
    """Long options of sbatch with their values: text as written, or True for a flag."""

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if not isinstance(node, yamlio.Mapping):
            return complain(problems, node, path, f"must be a mapping, not {described(node)}")
        found: dict[str, str | bool] = {}
        for key, each in node.pairs.items():
            where, option = f"{path}.{key}", key.replace("_", "-")
            message = _complaint(key, option) or ("is given twice" if option in found else "")
            if message:
                complain(problems, node.keys[key], where, message)
                continue
            value = _value(option, each, problems, where)
            # false and nothing take away what an included file sets.
            if value is not BAD and value not in (False, None):
                found[option] = value
        return found

    def schema(self) -> Schema:
        managed = "|".join(option.replace("-", "[-_]") for option in MANAGED)
        return {
            "type": "object",
            "additionalProperties": {
                "type": ["string", "number", "boolean", "null"],
                "minLength": 1,
                "pattern": _VALUE.schema()["pattern"],
            },
            "propertyNames": {
                "pattern": anchored(NAME_PATTERN),
                "not": {"pattern": anchored(managed)},
            },
        }


def _complaint(key: str, option: str) -> str:
    if not re.fullmatch(NAME_PATTERN, key):
        return "must be an option of sbatch by its long name, without dashes before it"
    return refusal(option)


def _value(option: str, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
    if yamlio.is_null(node):
        return None
    if not isinstance(node, yamlio.Scalar):
        return complain(problems, node, path, f"must be one value or true, not {described(node)}")
    if node.plain and node.text.lower() in ("true", "false"):
        return node.text.lower() == "true"
    if message := _VALUE.complaint(node.text):
        return complain(problems, node, path, message)
    if option in MAY_NAME_GPUS and "gpu" in node.text.lower():
        return complain(problems, node, path, f"hpckit manages GPUs: {_GPUS}")
    return node.text
