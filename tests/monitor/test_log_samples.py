"""What real programs printed, replayed in pieces of every size.

Recorded from tqdm 4, Keras 3, Lightning 2 and transformers 5 as they print into a file; Keras 2,
transformers 4 and Megatron-LM by the format strings in their source.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hpckit.monitor.log import LogReader, patterns_of

SAMPLES = Path(__file__).parent / "log_samples"


def read(sample, patterns, size=None):
    reader = LogReader(patterns_of(patterns), clock=lambda: 0.0)
    data = (SAMPLES / sample).read_bytes()
    size = size or len(data)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return [each for piece in pieces for each in reader.feed(piece)] + reader.flush()


def column(readings, name):
    return [each.get(name) for each in readings]


ALL = [
    ("founding.log", "founding"),
    ("tqdm.log", "tqdm"),
    ("lightning2.log", "lightning"),
    ("huggingface5.log", "huggingface"),
    ("huggingface4-no-bar.log", "huggingface"),
    ("keras3.log", "keras"),
    ("keras3-verbose2.log", "keras"),
    ("keras2.log", "keras"),
    ("megatron.log", "megatron"),
]


@pytest.mark.parametrize(("sample", "patterns"), ALL)
@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_pieces_in_which_a_log_arrives_do_not_matter(sample, patterns, size):
    whole = read(sample, patterns)
    assert whole
    # NaN is not itself; as a text it is.
    assert str(read(sample, patterns, size)) == str(whole)
    steps = [each.step for each in whole]
    assert steps == sorted(set(steps))


def test_the_founding_scripts_name_the_parameter():
    readings = read("founding.log", "founding")
    norms = [norm for norm in column(readings, "grad/norm/main") if norm is not None]
    assert norms == [6.87, 6.9, 7.02, 45.3, 88.1, 1557911.0]
    assert math.isnan(readings[-1].values["train/loss"])
    assert next(iter(readings[-1].parameters["main"].items())) == (
        "cascade_stages.2.output_proj.weight",
        1467765.0,
    )
    assert [loss for loss in column(readings, "val/loss") if loss] == [2.3305, 2.3111]


def test_tqdm_shows_the_loss_of_each_step():
    readings = read("tqdm.log", "tqdm")
    by_step = {each.step: each.get("train/loss") for each in readings}
    assert [by_step[step] for step in range(6)] == [2.5, 2.25, 2.0, 1.75, 1.5, 1.25]
    assert [by_step[step] for step in range(7, 10)] == [1.25, 1.0, 0.75]
    assert math.isnan(by_step[10])


def test_lightning_counts_on_over_the_epochs_and_a_validation_is_found_once():
    readings = read("lightning2.log", "lightning")
    assert [each.step for each in readings] == list(range(1, 41))
    assert [each.step for each in readings if "val/loss" in each.values] == [20, 40]


def test_the_trainer_of_hugging_face_has_the_step_of_its_bar():
    readings = read("huggingface5.log", "huggingface")
    logged = [each.step for each in readings if "train/loss" in each.values]
    assert logged == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert readings[0].values.keys() == {"train/loss", "grad/norm/main", "lr/main"}
    # What was found at step 10 goes with what is logged next.
    assert [each.step for each in readings if "val/loss" in each.values] == [12, 21]


def test_the_trainer_of_hugging_face_without_a_bar_is_counted():
    readings = read("huggingface4-no-bar.log", "huggingface")
    assert [each.step for each in readings] == [0, 1, 2]
    assert column(readings, "val/loss") == [None, 2.2, None]
    assert math.isnan(readings[2].values["grad/norm/main"])


def test_keras_bars_of_every_age():
    new = read("keras3.log", "keras")
    assert [each.step for each in new] == [1, 16, 17, 32]
    assert column(new, "val/loss") == [None, 5.4652, None, 4.8164]
    assert [each.step for each in read("keras3-verbose2.log", "keras")] == [16, 32]
    old = read("keras2.log", "keras")
    assert [each.step for each in old] == [1, 20, 40, 41, 60, 80]
    assert column(old, "train/loss")[:3] == [2.5, 1.75, 0.6931]
    assert column(old, "val/accuracy")[2] == 0.49
    assert math.isnan(old[-1].values["train/loss"])


def test_megatron_leaves_out_a_loss_that_is_no_number_but_counts_it():
    readings = read("megatron.log", "megatron")
    assert [each.step for each in readings] == [10, 20, 30, 40]
    assert column(readings, "train/loss")[:3] == [10.87, 10.21, 9.9]
    assert column(readings, "grad/norm/main")[:3] == [6.9, 45.3, 1557911.0]
    assert column(readings, "val/loss") == [None, 10.33, None, None]
    last = readings[-1].values
    assert math.isnan(last["train/loss"])
    assert (last["grad/gated/main"], last["grad/scale/main"]) == (1.0, 65536.0)
