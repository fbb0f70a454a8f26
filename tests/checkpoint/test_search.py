"""A filesystem that is away for a moment damages nothing, and makes nobody begin anew."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpckit.checkpoint import manifest, retention
from hpckit.checkpoint.store import Store
from hpckit.errors import HpckitError
from tests.checkpoint.made import FIRST, SECOND, begin, make, steps, store_of


class Trouble:
    """Files whose name ends so are refused so many times, with this error."""

    def __init__(self) -> None:
        self.ending = "nothing"
        self.times = 0
        self.number = errno.EIO

    def begin(self, ending: str, times: int = 1 << 30, number: int = errno.EIO) -> None:
        self.ending, self.times, self.number = ending, times, number

    def __call__(self, path: Path) -> None:
        if str(path).endswith(self.ending) and self.times > 0:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    made = Trouble()

    def in_trouble(function: Callable[..., Any]) -> Callable[..., Any]:
        def meddled(path: Path, *args: Any, **named: Any) -> Any:
            made(path)
            return function(path, *args, **named)

        return meddled

    monkeypatch.setattr(Path, "read_text", in_trouble(Path.read_text))
    monkeypatch.setattr(Path, "stat", in_trouble(Path.stat))
    monkeypatch.setattr(manifest, "measure", in_trouble(manifest.measure))
    monkeypatch.setattr(os, "listdir", in_trouble(os.listdir))
    monkeypatch.setattr(manifest, "PAUSES_S", (0.0, 0.0, 0.0))
    return made


NUMBERS = [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT]
FILES = ["00000002.a1-l1/state.pt", "00000002.a1-l1/manifest.json", "00000002.a1-l1/good.json"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("ending", [*FILES, "/checkpoints"])
def test_what_passes_in_a_moment_changes_nothing(
    tmp_path: Path, told: list[str], trouble: Trouble, ending: str, number: int
) -> None:
    make(tmp_path, 1, good=1)
    newest = make(tmp_path, 2, good=2)
    for times in (1, 3):
        trouble.begin(ending, times, number)
        assert store_of(tmp_path).newest_intact(told.append) == newest
        trouble.begin(ending, times, number)
        assert store_of(tmp_path).newest_good(None, 0, told.append) == newest
    assert told == []


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("ending", FILES)
def test_what_lasts_is_passed_over_told_and_left_as_it_is(
    tmp_path: Path, told: list[str], trouble: Trouble, ending: str, number: int
) -> None:
    older = make(tmp_path, 1, good=1)
    newest = make(tmp_path, 2, good=2)
    trouble.begin(ending, number=number)
    assert store_of(tmp_path).newest_intact(told.append) == older
    assert store_of(tmp_path).newest_good(None, 0, told.append) == older
    name = ending.rpartition("/")[2]
    assert told == 2 * [
        "checkpoint step-00000002.a1-l1 is passed over, and left as it is: "
        f"{name} cannot be read: {os.strerror(number)}"
    ]
    assert store_of(tmp_path).damaged() == []
    trouble.begin("nothing")
    assert store_of(tmp_path).newest_intact(told.append) == newest


@pytest.mark.parametrize("ending", ["manifest.json", "state.pt", "/checkpoints"])
def test_where_none_can_be_read_nothing_begins_anew(
    tmp_path: Path, told: list[str], trouble: Trouble, ending: str
) -> None:
    made = [make(tmp_path, step, good=step) for step in (1, 2)]
    trouble.begin(ending)
    name = ending.removeprefix("/")
    store = store_of(tmp_path)
    with pytest.raises(HpckitError, match=f"{name} cannot be read: Input/output error") as error:
        store.newest_intact(told.append)
    assert "nothing begins anew" in str(error.value)
    with pytest.raises(HpckitError, match="no checkpoint to go on from can be read"):
        store.newest_good(None, 0, told.append)
    trouble.begin("nothing")
    assert store.all() == made
    assert store.newest_intact(told.append) == made[1]


def test_damage_beside_it_is_set_aside_all_the_same(
    tmp_path: Path, told: list[str], trouble: Trouble
) -> None:
    make(tmp_path, 1)
    os.truncate(make(tmp_path, 2).path / "state.pt", 12)
    trouble.begin("00000001.a1-l1/state.pt")
    with pytest.raises(HpckitError, match="step-00000001"):
        store_of(tmp_path).newest_intact(told.append)
    assert [path.name for path in store_of(tmp_path).damaged()] == ["step-00000002.a1-l1.damaged"]


def test_what_does_not_count_stops_nobody(
    tmp_path: Path, told: list[str], trouble: Trouble
) -> None:
    begin(tmp_path, FIRST, 0)
    make(tmp_path, 500)
    begin(tmp_path, SECOND, 0)
    own = make(tmp_path, 200, SECOND)
    trouble.begin("500.a1-l1/manifest.json")
    assert store_of(tmp_path).newest_intact(told.append) == own
    trouble.begin("manifest.json")
    # The one that there is came later.
    assert store_of(tmp_path).newest_good(100, 0, told.append) is None
    assert told == []


def test_what_cannot_be_looked_at_is_not_incomplete(tmp_path: Path, trouble: Trouble) -> None:
    whole = make(tmp_path, 1)
    dying = make(tmp_path, 2)
    (dying.path / "manifest.json").unlink()
    trouble.begin("00000001.a1-l1/manifest.json")
    store: Store = store_of(tmp_path)
    assert store.incomplete() == [dying.path]
    assert store.unreadable() == []
    trouble.begin("/checkpoints")
    assert store.has_any
    assert retention.clean(store, SECOND) == []
    trouble.begin("nothing")
    assert steps(store.all()) == [whole.step]
