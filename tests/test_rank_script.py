"""The script that each rank runs, in every kind of environment."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpckit.spec import spec_from_json
from hpckit.worker.archive import bring
from hpckit.worker.rank_script import INSIDE, RANK, Layout, Places, render

CONDA_SH = r"""
# What `conda activate` does, as far as a script sees it, as conda 24.1's conda.sh does it.
conda() {
    case "$1" in
        activate)
            if [ ! -d "$CONDA_BASE/envs/$2" ]; then
                echo "EnvironmentNameNotFound: Could not find conda environment: $2" >&2
                return 1
            fi
            export CONDA_DEFAULT_ENV="$2" PATH="$CONDA_BASE/envs/$2/bin:$PATH" ;;
    esac
}
"""


@pytest.fixture
def places(tmp_path):
    run = tmp_path / "it's a run"
    found = Places(
        run=run,
        home=run,
        work=run / "work",
        logs=run / "logs",
        params=run / "params.json",
        trainer_starter=run / "start_trainer.py",
    )
    found.work.mkdir(parents=True)
    found.logs.mkdir()
    return found


def scripts(places, *, program="env", **sections):
    spec = spec_from_json({"name": "a", "program": program, **sections})
    layout = Layout(nodes=2, per_node=4, master_address="node1", master_port=20001)
    known = {"run": "a/b", "attempt": 3, "launch": 1, "checkpoint": ""}
    return render(spec, layout=layout, places=places, known=known, python=sys.executable)


def run(places, made, **variables):
    for name, text in made.items():
        (places.logs / name).write_text(text)
    rank = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_ID": "0"}
    return subprocess.run(
        ["bash", str(places.logs / RANK)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(places.run), **rank, **variables},
        capture_output=True,
        text=True,
        timeout=30,
    )


def words(places, rank=5):
    """What a rank said of its end: code, stage, told or untold; and when."""
    *said, when = (places.logs / f"rank-{rank}.exit").read_text().split()
    assert abs(float(when) - time.time()) < 60
    return " ".join(said)


def test_ranks_know_each_other_from_slurm_s_variables(places):
    done = run(places, scripts(places))
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    assert [found[name] for name in names] == ["5", "1", "1", "8", "4"]
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("node1", "20001")
    assert (found["HPCKIT_RUN"], found["HPCKIT_ATTEMPT"]) == ("a/b", "3")
    assert found["PYTHONUNBUFFERED"] == "1"
    assert words(places) == "0 program untold"


def test_a_python_script_is_run_by_the_environments_python(places):
    (places.work / "t.py").write_text("import sys; print(sys.executable, sys.argv)")
    made = scripts(places, program={"python": "t.py {params.x} | cat"}, params={"x": "it's"})
    assert run(places, made).stdout == f"{sys.executable} ['t.py', \"it's\"]\n"


def test_a_script_that_is_attached_is_run_by_the_archive_beside_the_run(places):
    (places.work / "t.py").write_text("import sys; print(sys.argv, 'hpckit' in sys.modules)")
    places = dataclasses.replace(places, archive=bring(places.run))
    program = {"python": "t.py {params.x} && echo done", "attach": "optimizers"}
    done = run(places, scripts(places, program=program, params={"x": "a b"}))
    assert done.stdout == "['t.py', 'a b'] False\ndone\n"
    assert words(places) == "0 program untold"
    (places.work / "t.py").write_text("import sys; sys.exit(76)")
    assert run(places, scripts(places, program=program, params={"x": 1})).returncode == 76


def test_python_is_the_one_that_submitted_where_none_is_named(places):
    done = run(places, scripts(places, program="command -v python"))
    assert done.stdout.strip() == str(Path(sys.executable).parent / "python")


def test_variables_are_what_they_say_whatever_is_in_them(places):
    hostile = "a b'c\"d $(touch broken) `id` \\ é"
    made = scripts(
        places, program='printf %s "$ODD"; pwd >&2', environment={"variables": {"ODD": hostile}}
    )
    done = run(places, made)
    assert done.stdout == hostile
    assert done.stderr.strip() == str(places.work)
    assert not list(places.run.rglob("broken"))


def test_a_rank_s_exit_code_is_its_own_even_when_it_is_told_to_end(places):
    made = scripts(places, program="trap 'exit 9' TERM; kill -TERM 0; sleep 5")
    for name, text in made.items():
        (places.logs / name).write_text(text)
    process = subprocess.Popen(
        ["bash", str(places.logs / RANK)],
        env={"PATH": "/usr/bin:/bin", "SLURM_PROCID": "0"},
        start_new_session=True,
    )
    # The launcher would kill the other ranks, which may still save, for any other code.
    assert process.wait(timeout=20) == 0
    assert words(places, 0) == "9 program told"


def test_a_rank_whose_folder_is_deleted_does_not_try_to_write_there_for_long(places):
    begun = time.monotonic()
    done = run(places, scripts(places, program=f'rm -rf "{places.run}"; exit 3'))
    assert time.monotonic() - begun < 15
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_a_virtual_environment_is_activated(places, tmp_path):
    venv = tmp_path / "my env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    made = scripts(places, program="command -v python", environment={"venv": str(venv)})
    assert run(places, made).stdout.strip() == f"{venv}/bin/python"


def test_a_virtual_environment_that_is_not_there_stops_the_launch(places):
    done = run(places, scripts(places, program="touch ran", environment={"venv": "/none"}))
    assert done.returncode != 0
    assert words(places) == "1 setup untold"
    assert not (places.work / "ran").exists()


@pytest.fixture
def conda(tmp_path):
    """A conda that answers as the real one does, with one environment in it."""
    base = tmp_path / "conda"
    (base / "etc" / "profile.d").mkdir(parents=True)
    (base / "envs" / "audio" / "bin").mkdir(parents=True)
    (base / "bin").mkdir()
    (base / "etc" / "profile.d" / "conda.sh").write_text(CONDA_SH)
    command = base / "bin" / "conda"
    command.write_text(f'#!/bin/sh\n[ "$*" = "info --base" ] && echo "{base}"\n')
    command.chmod(0o755)
    return {"PATH": f"{base}/bin:/usr/bin:/bin", "CONDA_BASE": str(base)}


def test_a_conda_environment_is_activated(places, conda):
    made = scripts(places, program="echo $CONDA_DEFAULT_ENV", environment={"conda": "audio"})
    assert run(places, made, **conda).stdout == "audio\n"


def test_a_conda_environment_that_is_not_there_stops_the_launch(places, conda):
    made = scripts(places, program="echo ran", environment={"conda": "video"})
    done = run(places, made, **conda)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Could not find conda environment: video" in done.stderr


needs_modules = pytest.mark.skipif(
    not Path("/usr/share/modules/init/bash").exists(), reason="environment-modules is missing"
)


@needs_modules
def test_modules_are_loaded_in_a_shell_that_is_no_login_shell(places, tmp_path):
    (tmp_path / "mods").mkdir()
    (tmp_path / "mods" / "cuda").write_text("#%Module1.0\nsetenv CUDA_HOME /opt/cuda\n")
    made = scripts(places, program="echo $CUDA_HOME", environment={"modules": ["cuda"]})
    done = run(places, made, MODULEPATH=str(tmp_path / "mods"))
    assert done.stdout == "/opt/cuda\n"


@needs_modules
def test_a_module_that_is_not_there_stops_the_launch_and_is_named(places):
    made = scripts(places, program="echo ran", environment={"modules": ["nothing/1.0"]})
    done = run(places, made)
    assert done.stdout == ""
    assert "hpckit: failed: module load nothing/1.0" in done.stderr
    assert words(places) == "1 setup untold"


def test_the_container_s_command_line_is_as_recorded(places):
    made = scripts(
        places,
        program="python train.py",
        resources={"gpus_per_node": 1},
        environment={"container": {"image": "/images/a b.sif", "bind": ["/data", "/x:/y:ro"]}},
    )
    line = made[RANK].splitlines()[-2]
    home = str(places.home).replace("'", "'\"'\"'")
    assert line == (
        f"apptainer exec --nv --bind '{home}' --bind /data --bind /x:/y:ro "
        f"--pwd '{home}/work' '/images/a b.sif' bash '{home}/logs/inside.sh'"
    )


def test_inside_a_container_bash_is_all_that_is_needed(places, tmp_path):
    """A stand-in that reads its arguments as Apptainer does, and then runs the command."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apptainer").write_text(
        "#!/bin/bash\n"
        '[ "$1" = exec ] || exit 64; shift\n'
        'while true; do case $1 in --bind) shift 2;; --nv) shift;; --pwd) cd "$2"; shift 2;;\n'
        "*) break;; esac; done\n"
        'image="$1"; shift; exec env -i PATH=/usr/bin:/bin IN="$image" RANK="$RANK" "$@"\n'
    )
    (tools / "apptainer").chmod(0o755)
    made = scripts(
        places,
        program="echo $IN $RANK $(pwd); exit 5",
        environment={"container": {"image": "a.sif"}, "setup": ["echo set up"]},
    )
    assert set(made) == {RANK, INSIDE}
    done = run(places, made, PATH=f"{tools}:/usr/bin:/bin")
    assert done.stdout == f"set up\na.sif 5 {places.work}\n"
    assert words(places) == "5 program untold"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("cd /nowhere && export X=1", "cd /nowhere"),
        ("false | cat", "false | cat"),
        ("exit 0", "exit 0"),
        ("trap true EXIT; false", None),
    ],
)
def test_setup_stops_at_its_first_failure_however_it_fails(places, line, named):
    made = scripts(places, program="echo ran", environment={"setup": [line, "echo went on"]})
    done = run(places, made)
    assert done.stdout == ""
    assert words(places).endswith(" setup untold")
    assert named is None or f"hpckit: setup ended at: {named}" in done.stderr


def test_what_was_told_to_end_finishes_saving_and_nothing_comes_after_it(places):
    save = "bash -c \"trap 'sleep 1; echo saved; exit 0' TERM; touch ready; sleep 30 & wait\""
    made = scripts(places, program=f"{save}; echo evaluating")
    for name, text in made.items():
        (places.logs / name).write_text(text)
    process = subprocess.Popen(
        ["bash", str(places.logs / RANK)],
        env={"PATH": "/usr/bin:/bin", "SLURM_PROCID": "0"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (places.work / "ready").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "saved\n"
    assert words(places, 0) == "143 program told"


def test_a_setup_line_that_fails_inside_a_container_stops_it(places):
    made = scripts(
        places,
        program="echo ran",
        environment={"container": {"image": "a.sif"}, "setup": ["false"]},
    )
    (places.logs / INSIDE).write_text(made[INSIDE])
    done = subprocess.run(["bash", str(places.logs / INSIDE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_virtual_environment_beside_the_spec_is_found_by_its_relative_path(places):
    made = [sys.executable, "-m", "venv", "--without-pip"]
    subprocess.run([*made, str(places.work / ".venv")], check=True)
    done = run(places, scripts(places, program="which python", environment={"venv": ".venv"}))
    assert done.stdout.strip() == f"{places.work}/.venv/bin/python"
    subprocess.run([*made, str(places.run / "my env")], check=True)
    done = run(places, scripts(places, program="which python", environment={"venv": "~/my env"}))
    assert done.stdout.strip() == f"{places.run}/my env/bin/python"


def test_a_container_s_image_is_looked_for_beside_the_spec_or_at_home(places):
    made = scripts(places, environment={"container": {"image": "a.sif", "bind": ["~/my data"]}})
    enter, _, line = made[RANK].splitlines()[-4:-1]
    assert enter == "cd " + line.split(" --pwd ")[1].split(" a.sif ")[0]
    assert "--bind \"$HOME\"/'my data' " in line


def test_an_end_is_said_when_a_full_disk_has_room_again(places, monkeypatch):
    made = scripts(places, program="true")
    for name, text in made.items():
        (places.logs / name).write_text(text.replace("sleep 5", "sleep 0.1"))
    (places.logs / "rank-0.exit").symlink_to("/dev/full")
    process = subprocess.Popen(
        ["bash", str(places.logs / RANK)],
        env={"PATH": "/usr/bin:/bin", "SLURM_PROCID": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "No space left" in process.stderr.readline()
    (places.logs / "rank-0.exit").unlink()
    process.communicate(timeout=20)
    assert words(places, 0) == "0 program untold"
