"""A program that is attached runs as Python runs it; hpckit comes when torch was imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hpckit.worker.archive import STARTER, bring

# What a program can see of how it was started.
PROBE = """
import json, os, sys
main = sys.modules["__main__"]
print(json.dumps([sorted(vars(main)), sys.argv, sys.path, __file__, str(__spec__), __package__,
                  type(__loader__).__name__, __builtins__ is main.__builtins__]))

class Own:
    pass

# What a file says of its own future is its own.
def annotated(of: print("evaluated")):
    pass

def deep(depth):
    if depth:
        deep(depth - 1)
    elif "raise" in sys.argv:
        try:
            1 / 0
        except ZeroDivisionError as error:
            raise ValueError("words") from error
    elif "interrupt" in sys.argv:
        raise KeyboardInterrupt
    elif "exit" in sys.argv:
        sys.exit(7)
    elif "say" in sys.argv:
        sys.exit("last words")
    elif "hook" in sys.argv:
        sys.excepthook = lambda kind, error, trace: print(kind, trace.tb_frame.f_code.co_name)
        raise ValueError
    elif "spawn" in sys.argv:
        import multiprocessing
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(type(pool.apply(Own)) is Own, pool.apply(modules))

def modules():
    return sorted(name for name in sys.modules if name.startswith("hpckit"))

if __name__ == "__main__":
    deep(2)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    work = tmp_path / "it's a job"
    (work / "package").mkdir(parents=True)
    (work / "package" / "__init__.py").touch()
    for name in ("probe.py", "package/inner.py"):
        (work / name).write_text(PROBE)
    (work / "link.py").symlink_to("package/inner.py")
    (work / "bad.py").write_text("if True:\n  x = (\n")
    return work


def run(
    folder: Path, *words: str, attached: bool = True, **more: str
) -> subprocess.CompletedProcess[str]:
    environ = {name: each for name, each in os.environ.items() if name != "PYTHONPATH"}
    starter = [str(bring(folder.parent))] if attached else []
    return subprocess.run(
        [sys.executable, *starter, *words],
        cwd=folder,
        env={**environ, **more},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "line",
    [
        "probe.py --lr 1e-3",
        "./package/inner.py",
        "link.py",
        "-m package.inner a b",
        "probe.py raise",
        "-m package.inner raise",
        "probe.py interrupt",
        "probe.py exit",
        "probe.py say",
        "probe.py hook",
        "bad.py",
        "nothing.py",
        "-m nothing.there",
    ],
)
def test_a_program_cannot_tell_that_it_was_started_by_us(folder: Path, line: str) -> None:
    ours, real = (run(folder, *line.split(), attached=each) for each in (True, False))

    def seen(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
        # Where a loader lies in memory is another place each time.
        return done.returncode, re.sub("0x[0-9a-f]+", "", done.stdout), done.stderr

    assert seen(ours) == seen(real)


def test_processes_that_it_spawns_know_the_program_and_not_us(folder: Path) -> None:
    done = run(folder, "probe.py", "spawn")
    assert done.stdout.splitlines()[-1] == "True []", done.stderr


def test_the_programs_folder_is_not_put_first_where_that_is_unwanted(folder: Path) -> None:
    ours, real = (
        run(folder, "probe.py", attached=each, PYTHONSAFEPATH="1") for each in (True, False)
    )
    assert (ours.returncode, ours.stdout) == (real.returncode, real.stdout)


# A torch that tells when it is imported, and by what it was found.
TORCH = """
import os, sys
print("threads", os.environ.get("OMP_NUM_THREADS"), [m for m in sys.modules if "hpckit" in m])
"""


def test_nothing_is_imported_before_the_program_imports_torch(folder: Path) -> None:
    (folder / "torch.py").write_text(TORCH)
    (folder / "train.py").write_text(
        "import os, sys\n"
        "os.environ['OMP_NUM_THREADS'] = '3'\n"
        "print(sorted(m for m in sys.modules if m in ('torch', 'hpckit', 'numpy')))\n"
        "import torch\n"
        "print(type(torch.__loader__).__name__, 'hpckit' in sys.modules, len(sys.meta_path))\n"
    )
    ours, real = (run(folder, "train.py", attached=each) for each in (True, False))
    before, at, after = ours.stdout.splitlines()
    assert (before, at) == ("[]", "threads 3 []")
    # Nothing of us is left in the import system.
    assert after == real.stdout.splitlines()[2].replace("False", "True")


def test_what_fails_in_attaching_is_told_once_and_the_program_runs(folder: Path) -> None:
    (folder / "torch.py").write_text(TORCH)
    (folder / "train.py").write_text("import torch\nimport torch\nprint('trained')\n")
    done = run(folder, "train.py", HPCKIT_RUN_DIR=str(folder))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "trained")
    (told,) = done.stderr.splitlines()
    assert told.startswith("hpckit: attach: ImportError: cannot import name 'Tensor'")
    assert told.endswith("; the program runs unattached")


def test_a_torch_that_cannot_be_imported_fails_as_it_does_alone(folder: Path) -> None:
    (folder / "torch.py").write_text("raise ImportError('libcudart is not there')\n")
    (folder / "train.py").write_text(
        "try:\n    import torch\nexcept ImportError as error:\n    print(error)\n"
    )
    assert run(folder, "train.py").stdout == "libcudart is not there\n"


def test_the_last_word_is_ours_and_the_programs_end_is_not_left_out(folder: Path) -> None:
    (folder / "train.py").write_text(
        "import atexit, os, sys, types\n"
        "ours = types.ModuleType('hpckit.integrations.attached')\n"
        "ours.leave = lambda: os._exit(76)\n"
        "sys.modules[ours.__name__] = ours\n"
        "atexit.register(print, 'its own end', flush=True)\n"
    )
    done = run(folder, "train.py")
    assert (done.returncode, done.stdout) == (76, "its own end\n")


def test_a_python_that_is_too_old_runs_the_program_by_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = folder / "starter.py"
    old.write_text(STARTER.read_text().replace("NEEDED = (3, 10)", "NEEDED = (99,)"))
    monkeypatch.setattr("hpckit.worker.archive.STARTER", old)
    ours, real = (run(folder, "probe.py", "raise", attached=each) for each in (True, False))
    assert (ours.returncode, ours.stdout) == (real.returncode, real.stdout)
    first, rest = ours.stderr.split("\n", 1)
    version = sys.version.split()[0]
    needed = "is older than 3.10; the program runs unattached"
    assert (first, rest) == (f"hpckit: attach: python {version} {needed}", real.stderr)


def test_the_archive_is_made_once_and_another_hpckits_is_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bring(tmp_path)
    when = first.stat().st_mtime_ns
    assert bring(tmp_path) == first
    assert first.stat().st_mtime_ns == when
    monkeypatch.setattr("hpckit.worker.archive.STARTER", Path(__file__))
    assert bring(tmp_path) != first
    with zipfile.ZipFile(first) as archive:
        assert {"__main__.py", "hpckit/__init__.py", "hpckit/train/stepper.py"} <= set(
            archive.namelist()
        )
