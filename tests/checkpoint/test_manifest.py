"""A checkpoint is what has a whole manifest; it is intact if every byte of it is there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from hpckit.checkpoint import manifest
from hpckit.checkpoint.manifest import Checkpoint, Word
from hpckit.checkpoint.names import Segment
from tests.checkpoint.made import SECOND, make, plain, store_of


def rewrite(checkpoint: Checkpoint, **keys: object) -> Checkpoint | None:
    path = checkpoint.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    return manifest.read(checkpoint.path)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    about = {
        "epoch": 2,
        "batch": 7,
        "world_size": 4,
        "why": "time limit",
        "finite": False,
        "bad": "model.weight",
        "metrics": {"pesq": 2.5},
        "best": True,
        "params": 12,
        "bytes": 46,
        "changes": 1,
        "tensors": {"model.weight": [[3, 4], "float32"]},
    }
    made = make(tmp_path, 300, Segment(2, 1, 1), **about)
    assert {key: getattr(made, key) for key in about} == about
    assert (made.step, made.segment, made.name) == (
        300,
        Segment(2, 1, 1),
        "step-00000300.a2-l1-r1",
    )
    on_disk = json.loads((made.path / "manifest.json").read_text())
    assert (on_disk["format"], on_disk["attempt"], on_disk["rollbacks"]) == (1, 2, 1)
    assert "path" not in on_disk


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    made = make(tmp_path, 1)
    (made.path / "manifest.json").unlink()
    assert manifest.read(made.path) is None
    assert manifest.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize("name", ["manifest.json", "good.json"])
def test_one_that_cannot_be_read_is_passed_over_and_the_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = [make(tmp_path, step, good=step) for step in (1, 2)]
    read = Path.read_text

    def stale(path: Path, **how: Any) -> str:
        if path == made[1].path / name:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path, **how)

    monkeypatch.setattr(Path, "read_text", stale)
    expected = {1: 1} if name == "manifest.json" else {1: 1, 2: None}
    assert {each.step: each.confirmed_at for each in store_of(tmp_path).all()} == expected


def test_a_torn_manifest_is_none_wherever_it_was_cut(tmp_path: Path) -> None:
    made = make(tmp_path, 1)
    path = made.path / "manifest.json"
    whole = path.read_bytes().rstrip()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert manifest.read(made.path) is None, length
    path.write_bytes(whole)
    assert manifest.read(made.path) == made


@pytest.mark.parametrize("keys", [{"step": None}, {"files": []}, {"files": {"a": 1}}])
def test_a_manifest_that_makes_no_sense_is_none(tmp_path: Path, keys: dict[str, object]) -> None:
    assert rewrite(make(tmp_path, 1), **keys) is None


def test_another_version_s_keys_are_passed_over(tmp_path: Path) -> None:
    found = rewrite(make(tmp_path, 1, epoch=3), colour="red", metrics=[1], epoch=None)
    assert found is not None
    assert (found.epoch, found.metrics) == (0, {})


def test_a_manifest_may_lack_all_but_the_most_needed(tmp_path: Path) -> None:
    made = make(tmp_path, 1)
    least = {"step": 1, "attempt": 1, "launch": 1, "files": {}}
    (made.path / "manifest.json").write_text(json.dumps(least))
    found = manifest.read(made.path)
    assert found is not None
    assert (found.segment, found.finite, found.is_good) == (Segment(1, 1), None, False)


def test_an_intact_one_has_no_problem(tmp_path: Path) -> None:
    files = {"state.pt": b"x" * 5_000_000, "empty": b"", "sharded/__0_0.distcp": b"part"}
    assert manifest.problem(make(tmp_path, 1, files=files)) is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    made = make(tmp_path, 1)
    (made.path / "rank-0.pt").unlink()
    assert manifest.problem(made) == "rank-0.pt is missing"


def test_a_file_that_was_cut_off_is_named_with_its_sizes(tmp_path: Path) -> None:
    made = make(tmp_path, 1)
    os.truncate(made.path / "state.pt", 12)
    assert manifest.problem(made) == "state.pt has 12 of 40 bytes"


@pytest.mark.parametrize("place", [0, 17, 39])
def test_a_single_flipped_bit_is_found(tmp_path: Path, place: int) -> None:
    made = make(tmp_path, 1)
    data = bytearray((made.path / "state.pt").read_bytes())
    data[place] ^= 1
    (made.path / "state.pt").write_bytes(data)
    assert manifest.problem(made) == "state.pt has a wrong checksum"


@pytest.mark.parametrize("place", [0, manifest.CHUNK, 2 * manifest.CHUNK + 4])
def test_a_flipped_bit_is_found_in_any_part_of_a_large_file(tmp_path: Path, place: int) -> None:
    made = make(tmp_path, 1, files={"state.pt": bytes(2 * manifest.CHUNK + 5)})
    with open(made.path / "state.pt", "r+b") as stream:
        stream.seek(place)
        stream.write(b"\1")
    assert manifest.problem(made) == "state.pt has a wrong checksum"


def test_sizes_are_looked_at_before_gigabytes_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, 1)
    os.truncate(made.path / "state.pt", 12)
    read: list[Path] = []
    monkeypatch.setattr(manifest, "measure", read.append)
    assert manifest.problem(made) == "state.pt has 12 of 40 bytes"
    assert read == []


def test_a_folder_in_a_file_s_place_is_no_file(tmp_path: Path) -> None:
    made = make(tmp_path, 1)
    (made.path / "state.pt").unlink()
    (made.path / "state.pt").mkdir()
    size = (made.path / "state.pt").stat().st_size
    found = rewrite(made, files={"state.pt": {"size": size, "crc32": 1}})
    assert found is not None
    assert manifest.problem(found) == "state.pt is missing"


def test_a_file_that_cannot_be_read_is_a_problem_for_who_only_looks_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, 1)
    monkeypatch.setattr(manifest, "PAUSES_S", (0.0, 0.0))
    asked = []

    def refuse(path: Path) -> dict[str, int]:
        asked.append(path.name)
        # As the kernel has it in the midst of a file: it names none.
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(manifest, "measure", refuse)
    assert manifest.problem(made) == "rank-0.pt cannot be read: Input/output error"
    assert asked == ["rank-0.pt"] * 3
    with pytest.raises(OSError, match=r"Input/output error: '.*/rank-0\.pt'"):
        manifest.damage(made)


def test_one_is_good_once_it_is_confirmed(tmp_path: Path) -> None:
    made = make(tmp_path, 100)
    assert not made.is_good
    assert manifest.confirm(made, 200).is_good
    found = manifest.read(made.path)
    assert found is not None
    assert (found.confirmed_at, found.is_good) == (200, True)


def test_one_that_is_not_finite_is_never_good() -> None:
    assert not plain(1, finite=False, confirmed_at=100).is_good
    assert plain(1, finite=None, confirmed_at=100).is_good


@pytest.mark.parametrize("torn", ["", '{"confirmed_at": 2', "[]", '{"confirmed_at": "soon"}'])
def test_a_torn_confirmation_confirms_nothing(tmp_path: Path, torn: str) -> None:
    made = make(tmp_path, 100, good=200)
    (made.path / "good.json").write_text(torn)
    found = manifest.read(made.path)
    assert found is not None
    assert found.confirmed_at is None


def test_confirming_what_is_gone_brings_nothing_back(tmp_path: Path) -> None:
    made = make(tmp_path, 100)
    made.path.rename(tmp_path / "elsewhere")
    manifest.confirm(made, 200)
    assert not made.path.exists()


def test_an_abandoned_one_is_no_checkpoint_any_more(tmp_path: Path) -> None:
    made = make(tmp_path, 100, good=200)
    manifest.abandon(made)
    assert manifest.read(made.path) is None
    assert (made.path / "abandoned.json").exists()
    manifest.abandon(made)


def test_a_damaged_one_is_set_aside_under_a_name_that_is_free(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        aside = manifest.set_aside(make(tmp_path, 100))
        assert aside is not None
        names.append(aside.name)
    first = "step-00000100.a1-l1.damaged"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_what_another_process_set_aside_is_not_set_aside_again(tmp_path: Path) -> None:
    made = make(tmp_path, 100)
    assert manifest.set_aside(made) is not None
    assert manifest.set_aside(made) is None


def test_a_rank_s_word_is_read_as_it_was_written(tmp_path: Path) -> None:
    word = Word(files={"rank-3.pt": {"size": 6, "crc32": 7}}, finite=False, bad="model.weight")
    word.write(tmp_path, 3)
    assert Word.read(tmp_path, 3) == word
    assert Word.read(tmp_path, 2) is None
    (tmp_path / "rank-2.json").write_text('{"files"')
    assert Word.read(tmp_path, 2) is None


def test_segments_are_kept_apart(tmp_path: Path) -> None:
    assert make(tmp_path, 1).path != make(tmp_path, 1, SECOND).path
