"""Sounds to train on: the same crops for the same question, and nothing broken among them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader
from torchaudio.functional import resample

from hpckit.audio.generated import KINDS, generate, kind_of, voice_of
from hpckit.audio.losses import LogMel
from hpckit.audio.sounds import sounds
from hpckit.errors import HpckitError, NotFound, UsageError

RATE = 16_000


def noise(seconds, rate=RATE, channels=1, seed=0):
    draw = np.random.default_rng(seed)
    return 0.1 * draw.standard_normal((round(seconds * rate), channels)).astype(np.float32)


def write(path, sound, rate=RATE, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, **how)


@pytest.fixture
def folder(tmp_path):
    """Twenty files of four speakers, at three rates, as wav, flac, ogg and mp3."""
    endings, rates = ("wav", "flac", "ogg", "mp3"), (16_000, 22_050, 44_100)
    for number in range(20):
        rate = rates[number % 3]
        name = f"speaker{number % 4}/take {number:02d}.{endings[number // 4 % 4]}"
        write(tmp_path / "set" / name, noise(1 + number / 10, rate, 1 + number % 2, number), rate)
    return tmp_path / "set"


def everything(dataset):
    return torch.stack([dataset[index] for index in range(len(dataset))])


def test_crops_have_one_length_one_channel_and_the_rate_that_is_asked_for(folder):
    found = sounds(folder, rate=8000, seconds=0.5)
    assert everything(found).shape == (len(found), 4000)
    assert found[0].dtype == torch.float32
    # Of each sound as many crops as fit side by side.
    assert len(found) == sum(clip.samples // 4000 for clip in found.clips)
    with pytest.raises(IndexError):
        found[len(found)]
    assert torch.equal(found[-1], found[len(found) - 1])


@pytest.mark.parametrize("ending", ["wav", "flac"])
@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 22_050])
def test_a_whole_sound_is_what_its_file_holds_mixed_and_resampled(tmp_path, rate, ending):
    sound = noise(1.5, 44_100, channels=2)
    write(tmp_path / f"a.{ending}", sound, 44_100, subtype="PCM_16")
    found = sounds(tmp_path, rate=rate, seconds=1, share=0).whole(0)
    expected = resample(torch.from_numpy(sound.mean(1)), 44_100, rate)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_loudness_is_left_as_it_was(tmp_path):
    write(tmp_path / "faint.wav", noise(2) * 0.01, subtype="FLOAT")
    write(tmp_path / "loud.wav", noise(2) * 9, subtype="FLOAT")
    faint, loud = (sounds(tmp_path, rate=RATE, seconds=2, share=0)[i] for i in (0, 1))
    assert torch.equal(faint, torch.from_numpy(noise(2)[:, 0] * 0.01))
    assert loud.abs().max() > 2


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_what_does_not_fit_into_memory_gives_the_same_from_the_disk(folder, rate, part):
    in_memory = sounds(folder, rate=rate, seconds=0.4, part=part, share=0.3)
    on_disk = sounds(folder, rate=rate, seconds=0.4, part=part, share=0.3, memory_gb=1e-6)
    assert not hasattr(on_disk.store, "pool")
    assert [clip.origin.name for clip in in_memory.clips] == [
        clip.origin.name for clip in on_disk.clips
    ]
    for epoch in (0, 1):
        in_memory.set_epoch(epoch)
        on_disk.set_epoch(epoch)
        torch.testing.assert_close(everything(in_memory), everything(on_disk), atol=1e-5, rtol=0)
    torch.testing.assert_close(in_memory.whole(0), on_disk.whole(0), atol=1e-5, rtol=0)


def test_a_crop_depends_on_seed_epoch_and_index_alone(folder):
    def crops(*, epoch=0, **settings):
        found = sounds(folder, rate=RATE, seconds=0.2, **settings)
        found.set_epoch(epoch)
        return everything(found)

    first = crops(epoch=3, seed=1)
    assert torch.equal(first, crops(epoch=3, seed=1))
    assert not torch.equal(first, crops(epoch=4, seed=1))
    assert not torch.equal(first, crops(epoch=3, seed=2))
    again = sounds(folder, rate=RATE, seconds=0.2, seed=1)
    everything(again)
    again.set_epoch(3)
    assert torch.equal(again[5], first[5]), "what was asked for before makes no difference"


def test_the_crops_move_all_over_a_sound(tmp_path):
    write(tmp_path / "ramp.wav", np.linspace(0.1, 0.9, 3 * RATE), subtype="FLOAT")
    found = sounds(tmp_path, rate=RATE, seconds=1, share=0)
    starts = []
    for epoch in range(200):
        found.set_epoch(epoch)
        starts += [found[index][0].item() for index in range(3)]
    low, high = 0.1, 0.1 + 0.8 * 2 / 3
    assert min(starts) < low + 0.01
    assert max(starts) > high - 0.01
    assert np.mean(starts) == pytest.approx((low + high) / 2, abs=0.02)


def test_the_crops_of_a_validation_stand_still_side_by_side(folder):
    found = sounds(folder, rate=RATE, seconds=0.5, part="validation", share=0.3)
    before = everything(found)
    found.set_epoch(7)
    assert torch.equal(before, everything(found))
    for number, clip in enumerate(found.clips):
        mine = [crop for index, crop in enumerate(before) if found.clip_of(index) == number]
        if clip.step == 1:
            assert torch.equal(torch.cat(mine), found.whole(number)[: 8000 * len(mine)])


@pytest.mark.parametrize("split", ["file", "speaker"])
def test_no_sound_and_no_speaker_is_on_both_sides(folder, split):
    train = sounds(folder, rate=RATE, seconds=0.5, split=split, share=0.25)
    held_out = sounds(folder, rate=RATE, seconds=0.5, split=split, share=0.25, part="validation")
    names = [{clip.origin.name for clip in each.clips} for each in (train, held_out)]
    assert not names[0] & names[1]
    assert (len(names[0]), len(names[1])) == (15, 5)
    if split == "speaker":
        assert not {c.origin.speaker for c in train.clips} & {
            c.origin.speaker for c in held_out.clips
        }


def test_the_split_moves_with_neither_seed_nor_length_nor_broken_files_nor_place(folder, tmp_path):
    def held_out(where=folder, **settings):
        how = {"rate": RATE, "seconds": 0.5, "part": "validation", "share": 0.3, **settings}
        return {clip.origin.name for clip in sounds(where, **how).clips}

    expected = held_out()
    assert held_out(seed=5) == held_out(rate=8000) == expected
    with pytest.warns(UserWarning, match="3 shorter"):
        assert held_out(seconds=1.5) < expected
    folder.rename(tmp_path / "elsewhere")
    one = sorted(expected)[0]
    (tmp_path / "elsewhere" / one).write_bytes(b"RIFF")
    with pytest.warns(UserWarning, match="1 unreadable"):
        assert held_out(tmp_path / "elsewhere") == expected - {one}


def test_a_link_to_a_sound_is_that_sound(folder):
    (folder / "speaker9").mkdir()
    (folder / "speaker9" / "link.wav").symlink_to(folder / "speaker0" / "take 00.wav")
    train = sounds(folder, rate=RATE, seconds=0.5)
    held_out = sounds(folder, rate=RATE, seconds=0.5, part="validation")
    assert len(train.clips) + len(held_out.clips) == 20


def test_links_to_folders_are_followed_and_lead_in_no_ring(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "corpus").symlink_to(folder)
    (linked / "again").symlink_to(folder)
    (folder / "ring").symlink_to(linked)
    found = sounds(linked, rate=RATE, seconds=0.5, share=0)
    assert len(found.clips) == 20
    assert found.clips[0].origin.name == "again/speaker0/take 00.wav"


def test_what_cannot_be_used_is_left_out_and_told_in_one_warning(tmp_path):
    write(tmp_path / "good.wav", noise(2))
    write(tmp_path / "silent.wav", np.zeros(2 * RATE))
    write(tmp_path / "short.flac", noise(0.5))
    broken = noise(2)
    broken[7000] = np.nan
    write(tmp_path / "nan.wav", broken, subtype="FLOAT")
    for number in range(5):
        (tmp_path / f"text{number}.mp3").write_text("no sound at all")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "odd\x1b[2J.wav").write_text("no sound either")
    (tmp_path / "notes.txt").touch()
    for memory_gb in (2, 0):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = sounds(tmp_path, rate=RATE, seconds=1, share=0, memory_gb=memory_gb)
        assert [clip.origin.name for clip in found.clips] == ["good.wav"]
        assert torch.isfinite(everything(found)).all()
        (warning,) = told
        assert str(warning.message) == (
            f"{tmp_path}: left out 1 not finite (nan.wav); 1 silent (silent.wav); "
            "1 shorter than 1 s (short.flac); "
            "7 unreadable (empty.wav, odd.wav, text0.mp3, and 4 more)"
        )
        assert warning.filename == __file__


def test_a_file_that_is_cut_off_is_used_as_far_as_it_goes(tmp_path):
    write(tmp_path / "a.flac", noise(60))
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    with warnings.catch_warnings(record=True):
        try:
            found = sounds(tmp_path, rate=RATE, seconds=1, share=0)
        except NotFound:
            return
    assert 20 <= len(found) <= 31
    assert torch.isfinite(everything(found)).all()


def test_a_folder_of_nothing_usable_is_an_error_that_says_what_was_found(tmp_path):
    with pytest.raises(NotFound, match="no such folder"):
        sounds(tmp_path / "none", rate=RATE, seconds=1)
    (tmp_path / "a.txt").touch()
    with pytest.raises(NotFound, match="none of its 1 files is of wav, flac, ogg, mp3"):
        sounds(tmp_path, rate=RATE, seconds=1)
    write(tmp_path / "a.wav", np.zeros(2 * RATE))
    with pytest.raises(NotFound, match=r"no sound that can be used: 1 silent \(a.wav\)"):
        sounds(tmp_path, rate=RATE, seconds=1)
    with pytest.raises(NotFound, match="nothing of its 1 sounds is for validation"):
        sounds(tmp_path, rate=RATE, seconds=1, part="validation")


def test_one_speaker_alone_is_told_to_be_split_by_file(tmp_path):
    for name in ("a.wav", "b.wav"):
        write(tmp_path / "ana" / name, np.ones(2 * RATE))
    ask = {"rate": RATE, "seconds": 1, "part": "validation"}
    with pytest.raises(NotFound, match=r"is for validation\n.* a second speaker, or split: file"):
        sounds(tmp_path, **ask, split="speaker")
    assert len(sounds(tmp_path, **ask, split="file")) == 2


def test_speech_that_was_not_fetched_names_the_command_that_does():
    with pytest.raises(NotFound) as error:
        sounds("speech", rate=RATE, seconds=1)
    assert "hpckit data speech" in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0}, {"seconds": 0}, {"part": "test"}, {"share": 1}, {"split": "x"}, {"clips": 0}],
)
def test_nonsense_is_refused_by_name(wrong):
    with pytest.raises(UsageError, match=f"sounds: {next(iter(wrong))} is"):
        sounds("generated", **{"rate": RATE, "seconds": 1, **wrong})


def test_a_file_that_goes_away_during_a_training_is_an_error_with_its_name(tmp_path):
    """Another item in its place would repeat silently, which hid a broken data set for weeks."""
    write(tmp_path / "a.wav", noise(2))
    found = sounds(tmp_path, rate=RATE, seconds=1, share=0, memory_gb=0)
    write(tmp_path / "a.wav", noise(0.2))
    with pytest.raises(HpckitError, match=r"a\.wav: "):
        everything(found)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(HpckitError, match=r"a\.wav: cannot be read any more"):
        found[0]


def test_generated_sounds_need_no_file_and_are_the_same_everywhere():
    first, again = (sounds("generated", rate=RATE, seconds=1, clips=20) for _ in range(2))
    assert torch.equal(everything(first), everything(again))
    assert not torch.equal(first[0], sounds("generated", rate=RATE, seconds=1, seed=1)[0])
    assert len(sounds("generated", rate=RATE, seconds=5, clips=20, share=0).clips) == 20


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_generated_sounds_are_finite_below_1_and_not_silent(rate):
    for number in range(20):
        sound = generate(number, rate=rate, seconds=2)
        assert len(sound) == 2 * rate
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() < 1
        assert np.sqrt((sound**2).mean()) > 0.005
        assert np.abs(sound).reshape(-1, rate // 50).max(1).min() > 0, "no digital silence"


def test_generated_sounds_are_different_enough_to_learn_from():
    """Their mean mel spectra alone tell the kind of nearly all, and the voice of many."""
    made = torch.stack([torch.from_numpy(generate(n, rate=RATE, seconds=2)) for n in range(200)])
    spectra = LogMel(RATE, mels=40)(made).mean(-1)
    apart = torch.cdist(spectra, spectra).fill_diagonal_(float("inf"))
    assert apart.min() > 0.1
    nearest = apart.argmin(1).tolist()
    kinds = [kind_of(here) == kind_of(there) for here, there in enumerate(nearest)]
    voices = [voice_of(here) == voice_of(there) for here, there in enumerate(nearest)]
    assert np.mean(kinds) > 0.95
    assert np.mean(voices) > 0.3
    assert {kind_of(number) for number in range(len(KINDS))} == set(KINDS)


def private_mb(address):
    """How much of the mapping that this address lies in no other process has."""
    sizes, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):
            low, high = (int(end, 16) for end in first.split("-"))
            inside = low <= address < high
        elif inside and first.startswith("Private"):
            sizes.append(int(rest.split()[0]))
    assert sizes
    return sum(sizes) / 1024


class Watched(torch.utils.data.Dataset):
    """How much of the samples each process has for itself that makes crops."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index].mean(), private_mb(self.dataset.store.pool.data_ptr())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_a_loader_share_the_memory(tmp_path, method):
    for number in range(2):
        write(tmp_path / f"{number}.wav", noise(1000, seed=number))
    found = sounds(tmp_path, rate=RATE, seconds=100, share=0)
    assert private_mb(found.store.pool.data_ptr()) > 100
    loader = DataLoader(
        Watched(found), batch_size=None, num_workers=2, multiprocessing_context=method
    )
    assert max(mb for _, mb in loader) < 20


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_live_on_hear_of_the_epoch(folder, method):
    found = sounds(folder, rate=RATE, seconds=0.5)
    loader = DataLoader(
        found,
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=method,
    )
    for epoch in range(3):
        found.set_epoch(epoch)
        assert torch.equal(torch.stack(list(loader)), everything(found))


def test_a_loop_of_hpckit_tells_the_epoch(folder, monkeypatch):
    import hpckit

    monkeypatch.chdir(folder)
    found = sounds(folder, rate=RATE, seconds=0.5)
    seen = []
    run = hpckit.attach()
    for _ in run.batches(DataLoader(found, batch_size=8), epochs=3):
        seen.append(found._epoch.item())
    assert sorted(set(seen)) == [0, 1, 2]
    assert os.getcwd() == str(folder)
