"""How long `hpckit --help` and `hpckit ls` take, beside `python -c "import click"`.

At most 3 times as long; and nothing on these paths imports torch, submitit, pydantic or rich.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from many_runs import make_runs

ROUNDS = 15
FORBIDDEN = ("torch", "submitit", "pydantic", "rich", "yaml", "numpy")


def main() -> None:
    hpckit = shutil.which("hpckit", path=str(Path(sys.executable).parent))
    assert hpckit is not None, "install hpckit first"
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache", "HPCKIT_ROOT": f"{folder}/runs"}
        make_runs(Path(folder, "runs"), 5)
        commands = {
            "import click": [sys.executable, "-c", "import click"],
            "hpckit --help": [hpckit, "--help"],
            "hpckit ls, 5 runs": [hpckit, "ls"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                times[name].append(seconds(command, env))
        for name in list(commands)[1:]:
            tell(name, times[name], times["import click"])
            print(f"  imports none of {', '.join(FORBIDDEN)}: {not imported(commands[name], env)}")


def seconds(command: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)
    return time.perf_counter() - began


def tell(name: str, ours: list[float], rival: list[float]) -> None:
    ratio = statistics.median(one / other for one, other in zip(ours, rival, strict=True))
    print(
        f"{name}: {statistics.median(ours) * 1000:.0f} ms, import click "
        f"{statistics.median(rival) * 1000:.0f} ms, ratio {ratio:.2f} (at most 3)"
    )


def imported(command: list[str], env: dict[str, str]) -> list[str]:
    """Which of the forbidden packages a command imports, by Python's own account."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    return sorted(names & set(FORBIDDEN))


if __name__ == "__main__":
    main()
