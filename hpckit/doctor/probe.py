"""What the probe job looks at, on a node; standard library only."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time


def main() -> None:
    """Write down what a node can do, in one step: whoever waits sees all of it or nothing."""
    target = sys.argv[1]
    found = {
        "node": platform.node(),
        "python": sys.version.split()[0],
        "srun": shutil.which("srun"),
        "scancel": shutil.which("scancel"),
        "sbatch": sbatch_problem(),
        "time": time.time(),
    }
    with open(target + ".new", "w", encoding="utf-8") as stream:
        json.dump(found, stream)
    os.replace(target + ".new", target)


def sbatch_problem() -> str | None:
    """Why a job cannot be submitted from here; None where it can: a held one, cancelled at once."""
    command = ["sbatch", "--parsable", "--hold", "--job-name=hpckit-doctor", "--time=1"]
    try:
        answer = subprocess.run(
            [*command, "--output=/dev/null", "--wrap=true"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if answer.returncode != 0:
        return answer.stderr.strip()
    job_id = answer.stdout.strip().partition(";")[0]
    subprocess.run(["scancel", job_id], timeout=30, check=False)
    return None


if __name__ == "__main__":
    main()
