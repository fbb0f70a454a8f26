"""Numbers as programs print them, and the names they are printed under."""

from __future__ import annotations

import math

import pytest

from hpckit.monitor.log.groups import found_in, metric
from hpckit.monitor.log.numbers import number, whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45.30", 45.3),
        ("1,557,911", 1557911.0),
        ("1,557,911.25,", 1557911.25),
        ("+2.3E+00", 2.3),
        ("-.5", -0.5),
        ("7.", 7.0),
        ("45%", 45.0),
        ("tensor(2.31, device='cuda:0')", 2.31),
        ("np.float64(2.5)", 2.5),
        ("tensor([2.31])", 2.31),
        ("'0.6905'", 0.6905),
    ],
)
def test_a_number_is_read_however_it_is_dressed(text, expected):
    assert number(text) == expected


@pytest.mark.parametrize(
    "text",
    ["nan", "NaN", "-nan", "nan(ind)", "-nan(ind)", "1.#IND", "-1.#IND00", "1.#QNAN",
     "tensor(nan, device='cuda:0')", "nan,"],
)  # fmt: skip
def test_not_a_number_is_read_however_it_is_spelled(text):
    found = number(text)
    assert found is not None
    assert math.isnan(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("+Inf", math.inf),
        ("-Infinity", -math.inf),
        ("1.#INF", math.inf),
        ("-1.#INF00", -math.inf),
        ("1e+400", math.inf),
        ("tensor(-inf)", -math.inf),
    ],
)
def test_infinity_is_read_however_it_is_spelled(text, expected):
    assert number(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "none", "nano", "info", "0,5", "1,2345", "2.5k", "3s", "1_000", "--", "e5"],
)
def test_what_could_be_read_two_ways_is_no_number(text):
    assert number(text) is None


def test_a_position_is_a_whole_number():
    assert whole("1,200") == 1200
    assert [whole(text) for text in ("-1", "nan", "inf", "2.5", "1e300")] == [None] * 5


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("loss", "train/loss"),
        ("loss_generator", "train/loss/generator"),
        ("norm", "grad/norm/main"),
        ("grad_norm", "grad/norm/main"),
        ("norm_discriminator", "grad/norm/discriminator"),
        ("grad_norm_discriminator", "grad/norm/discriminator"),
        ("lr", "lr/main"),
        ("learning_rate", "lr/main"),
        ("lr_generator", "lr/generator"),
        ("val_pesq", "val/pesq"),
        ("eval_loss", "val/loss"),
        ("train_loss", "train/loss"),
        ("loss_scale", "grad/scale/main"),
        ("accuracy", "train/accuracy"),
        ("train_", "train/train_"),
    ],
)
def test_a_group_has_the_name_that_readings_have(group, name):
    assert metric(group) == name


@pytest.mark.parametrize(
    "text",
    [
        "loss=2.31, lr=1e-4, val/acc=0.5, v_num=0",
        "loss=2.31 lr=1e-4 val/acc=0.5",
        "'loss': 2.31, 'learning_rate': 1e-4, 'val/acc': 0.5, 'epoch': 0.1",
        "Loss: 2.31 - lr: 1e-4 - val_acc: 0.5",
        " lm loss: 2.31 | learning rate: 1e-4 | val/acc: 0.5 | note: none | consumed samples: 3 |",
    ],
)
def test_pairs_are_read_in_every_way_they_are_printed(text):
    found = found_in([{"pairs": text}])
    assert found is not None
    assert found.values == {"train/loss": 2.31, "lr/main": 1e-4, "val/acc": 0.5}


def test_how_long_a_validation_took_is_no_finding():
    text = "'eval_loss': 2.31, 'eval_runtime': 3.2, 'eval_samples_per_second': 40.1"
    found = found_in([{"pairs": text}])
    assert found is not None
    assert found.values == {"val/loss": 2.31}


def test_steps_that_were_lost_make_the_loss_no_number():
    (loss,) = found_in([{"lost": "1"}]).values.values()
    assert math.isnan(loss)
    assert found_in([{"lost": "0"}]) is None
