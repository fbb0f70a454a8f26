"""What the worker costs while all is well: at most 0.5% of one core, and 60 MB.

    python -m benchmarks.worker_cost [--seconds 120] [--ranks 8]

A real worker under the local scheduler, whose ranks give signs of life every second as a training's
do. Beside it submitit's own local worker, which only waits, in the same minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANK = (
    "import os, time; path = os.environ['HPCKIT_PULSE']; step = 0\n"
    "while True:\n"
    "    step += 9; open(path, 'w').write(f'{step} step\\n'); time.sleep(1)\n"
)
RIVAL = """
import time
import submitit
executor = submitit.LocalExecutor({folder!r})
executor.update_parameters(timeout_min=60)
job = executor.submit(time.sleep, 3600)
print(job.job_id, flush=True)
time.sleep(3600)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--ranks", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="worker-") as name:
        folder = Path(name)
        os.environ |= {"HPCKIT_LOCAL_DIR": f"{name}/local", "HPCKIT_ROOT": f"{name}/runs"}
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(asked.ranks)))
        worker = _hpckit(folder, asked.ranks)
        rival = subprocess.Popen(
            [sys.executable, "-c", RIVAL.format(folder=f"{name}/rival")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert rival.stdout is not None
        other = int(rival.stdout.readline())
        try:
            _compare({"hpckit's worker": worker, "submitit's local job": other}, asked.seconds)
        finally:
            rival.kill()
            subprocess.run(["kill", str(other)], check=False)
            subprocess.run([sys.executable, "-m", "hpckit", "cancel", "cost"], check=True)


def _hpckit(folder: Path, ranks: int) -> int:
    (folder / "rank.py").write_text(RANK)
    (folder / "job.yaml").write_text(
        "name: cost\nprogram: {command: python rank.py, processes: per_gpu}\n"
        f"resources: {{gpus_per_node: {ranks}, time: 1h}}\n"
    )
    call = [sys.executable, "-m", "hpckit", "submit", "--json", "--cluster", "local"]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True)
    run = Path(json.loads(done.stdout)["runs"][0]["dir"])
    logs = run / "attempts/001/logs/launch-1"
    while len(list(logs.glob("*.pulse"))) < ranks:
        time.sleep(0.1)
    return int(json.loads((run / "attempts/001/attempt.json").read_text())["worker_pid"])


def _compare(processes: dict[str, int], seconds: float) -> None:
    before = {name: _cpu_s(pid) for name, pid in processes.items()}
    time.sleep(seconds)
    for name, pid in processes.items():
        share = (_cpu_s(pid) - before[name]) / seconds
        print(f"{name:<24}{share:>8.3%} of one core, at most {_peak_mb(pid):.0f} MB")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
