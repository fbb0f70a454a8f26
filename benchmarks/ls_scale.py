"""How `hpckit ls` grows from 100 to 10,000 finished runs: at most 1 s warm for the last.

The rival is what everybody has: `find` over the same folders, naming every run.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from many_runs import make_runs
from startup import seconds

SIZES = (100, 1_000, 10_000)
ROUNDS = 7


def main() -> None:
    hpckit = shutil.which("hpckit", path=str(Path(sys.executable).parent))
    assert hpckit is not None, "install hpckit first"
    print("runs    cold   warm   --all  --json --all   find   warm/find")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            root = f"{folder}/runs"
            env = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache", "HPCKIT_ROOT": root}
            make_runs(Path(root), size)
            cold = seconds([hpckit, "ls"], env)
            rows: list[list[float]] = [[], [], [], []]
            for _ in range(ROUNDS):
                rows[0].append(seconds([hpckit, "ls"], env))
                rows[1].append(seconds([hpckit, "ls", "--all"], env))
                rows[2].append(seconds([hpckit, "ls", "--all", "--json"], env))
                rows[3].append(seconds(["find", root, "-name", "run.json"], env))
            warm, every, as_json, find = (statistics.median(row) for row in rows)
            print(
                f"{size:<6} {cold:5.2f}  {warm:5.2f}  {every:5.2f}  {as_json:12.2f}  "
                f"{find:5.2f}   {warm / find:.1f}"
            )


if __name__ == "__main__":
    main()
