"""Trainings that know nothing of hpckit: resumed, gone back in, and read by their logs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpckit.checkpoint.half import is_half
from hpckit.checkpoint.own_sets import OwnSets, as_argument
from hpckit.monitor.log.tryout import Tryout, try_log
from hpckit.spec import JobSpec, load_spec

HERE = Path(__file__).parent
HIFI = HERE / "hifi_like.yaml"
NANO = HERE / "nano_gpt_like.yaml"
BEGAN = 20
# Soon after it began to explode a loss is beyond this, and a healthy one never is.
LOST = 200.0

Train = Callable[..., list[str]]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def hifi(work: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Train]:
    """Runs it in this process, as torch's import takes longer; what it printed."""
    import torch

    from tests.programs import hifi_like

    def train(*args: str, epochs: int = 6) -> list[str]:
        config = str(HERE / "hifi_like.json")
        fixed = [f"--config={config}", f"--training_epochs={epochs}", "--checkpoint_interval=10"]
        hifi_like.main([*fixed, "--stdout_interval=1", *args])
        return capsys.readouterr().out.splitlines()

    yield train
    torch.backends.mkldnn.set_flags(True)


@pytest.fixture
def nano(work: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    from tests.programs import nano_gpt_like

    def train(*args: str, iters: int = 60) -> list[str]:
        nano_gpt_like.main([f"--max_iters={iters}", "--save_interval=10", *args])
        return capsys.readouterr().out.splitlines()

    return train


def losses(lines: list[str]) -> dict[int, float]:
    found = (re.search(r"(?:Steps : |iter )(\d+).*?(?:Total : +|loss )([^,]+),", x) for x in lines)
    return {int(each[1]): float(each[2]) for each in found if each}


def own_sets(spec_file: Path, work: Path) -> OwnSets:
    return OwnSets.of_run(work.parent, load_spec(spec_file).checkpoint.files)


def tried(spec: JobSpec, lines: list[str], work: Path) -> Tryout:
    log = work.parent / "rank-0.log"
    log.write_text("\n".join(lines) + "\n")
    return try_log(spec.monitor, log, work)


def test_the_vocoder_goes_back_by_itself_once_newer_sets_are_out_of_its_sight(
    hifi: Train, work: Path
) -> None:
    explode = (f"--explode_at={BEGAN}", "--safe_lr=0.001")
    bad = losses(hifi(*explode))
    assert bad[BEGAN - 1] < 100 < LOST < bad[47]
    own = own_sets(HIFI, work)
    assert [each.step for each in own.sets()] == [10, 20, 30, 40]
    assert all(each.complete for each in own.sets())

    # Tightened and from the newest: that was saved too late, and nothing heals it.
    tight = (*explode, "--learning_rate=0.001")
    lines = hifi(*tight)
    assert lines[0] == "Loading 'cp/do_00000040'"
    assert max(losses(lines).values()) > LOST

    # From before it began, and as it was: it begins again.
    own.go_back(own.newest(before=BEGAN - 1), why="explosion")
    assert [each.step for each in own.sets()] == [10]
    assert losses(hifi(*explode))[47] > LOST

    own.go_back(own.newest(before=BEGAN - 1), why="explosion again")
    lines = hifi(*tight)
    assert lines[:2] == ["Loading 'cp/do_00000010'", "Loading 'cp/g_00000010'"]
    healed = losses(lines)
    assert min(healed) == 11
    assert max(healed.values()) < 100

    own.go_back(None, why="a person's wish")
    assert min(losses(hifi(epochs=1))) == 0


def test_the_language_model_goes_back_to_what_it_is_told(nano: Train, work: Path) -> None:
    own = own_sets(NANO, work)

    def train(*more: str) -> dict[int, float]:
        # As the command is filled in: empty where there is none.
        given = as_argument(own.newest(before=BEGAN - 1))
        return losses(nano(f"--resume={given}", f"--explode_at={BEGAN}", *more))

    bad = train()
    assert bad[BEGAN - 1] < 4
    assert bad[60] > LOST
    assert as_argument(own.newest()) == "out/ckpt_60.pt"
    assert train()[60] > LOST
    own.go_back(own.newest(before=BEGAN - 1), why="explosion")
    healed = train("--grad_clip=0.5")
    assert min(healed) == 10
    assert max(healed.values()) < 4
    assert [each.step for each in own.sets()] == [10, 20, 30, 40, 50, 60]


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(
    hifi: Train, nano: Train, work: Path
) -> None:
    for n, train in enumerate([hifi, nano]):
        place = ("--checkpoint_path=", "--out_dir=")[n]
        short = ({"epochs": 2}, {"iters": 10})[n]
        first, same, other = (
            losses(train(f"{place}{name}", f"--seed={seed}", **short))
            for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert first == same
        assert not set(first.values()) & set(other.values())


def test_the_language_model_goes_on_as_if_nothing_had_happened(nano: Train) -> None:
    whole = losses(nano(iters=100))
    resumed = losses(nano("--init_from=resume", iters=100))
    assert resumed == {100: whole[100]}
    again = losses(nano("--resume=out/ckpt_40.pt", iters=100))
    assert again == {step: loss for step, loss in whole.items() if step >= 40}


def test_what_torch_writes_is_half_wherever_it_was_cut(hifi: Train, work: Path) -> None:
    hifi("--checkpoint_interval=4", epochs=1)
    for name in ("g_00000004", "do_00000004"):
        file = work / "cp" / name
        size = file.stat().st_size
        assert not is_half(file, size)
        for cut in range(size - 1, 3, -997):
            os.truncate(file, cut)
            assert is_half(file, cut), cut
    assert not own_sets(HIFI, work).sets()[0].complete


def test_a_set_whose_second_file_was_not_written_is_passed_over(hifi: Train, work: Path) -> None:
    hifi(epochs=3)
    (work / "cp" / "do_00000020").unlink()
    own = own_sets(HIFI, work)
    newest = own.newest()
    assert own.go_back(newest, why="killed") == ["cp/g_00000020"]
    assert hifi(epochs=2)[:2] == ["Loading 'cp/do_00000010'", "Loading 'cp/g_00000010'"]


@pytest.mark.parametrize(
    # A loss alone takes 64 readings to be called lost, and 256 before; with a norm it is seen soon.
    ("spec_file", "began", "seen", "steps"),
    [(HIFI, 264, 85, 44), (NANO, 90, 35, 130)],
)
def test_their_logs_are_read_and_the_explosion_in_them_is_acted_on(
    request: pytest.FixtureRequest, work: Path, spec_file: Path, began: int, seen: int, steps: int
) -> None:
    train, length = ("hifi", "epochs") if spec_file is HIFI else ("nano", "iters")
    lines = request.getfixturevalue(train)(f"--explode_at={began}", **{length: steps})
    found, printed = tried(load_spec(spec_file), lines, work), losses(lines)
    assert found.readings == found.values["train/loss"].count == len(printed)
    assert (found.first_step, found.last_step) == (0, max(printed))
    assert found.values["train/loss"].last == printed[max(printed)]
    other = "train/mel" if spec_file is HIFI else "grad/norm/main"
    assert found.values[other].count == len(printed)
    first = next(each for each in found.incidents if each.acts)
    assert began < first.step <= began + seen
    assert first.onset is not None
    assert first.onset <= began
    assert all(each.step > began for each in found.incidents)


@pytest.mark.parametrize(("spec_file", "resume"), [(HIFI, "newest"), (NANO, "argument")])
def test_their_specs_are_valid(spec_file: Path, resume: str) -> None:
    spec = load_spec(spec_file)
    assert spec.resume == resume
    command = spec.program.command or ""
    script = re.findall(r"python (\S+\.py)", command)
    assert [(HERE / name).exists() for name in script] == [True]
    assert re.findall(r"\{params\.(\w+)\}", command) == list(spec.params)
    assert "hpckit" not in re.sub('""".*?"""', "", (HERE / script[0]).read_text(), flags=re.DOTALL)
