"""Which lines make one reading, and which step it is."""

from __future__ import annotations

import json
import math

import pytest

from hpckit.monitor.log import LogReader, patterns_of


def read(text, patterns="founding"):
    """Every reading of a text as its step and its values."""
    reader = LogReader(patterns_of(patterns), clock=lambda: 0.0)
    found = reader.feed(text.encode()) + reader.flush()
    reader.close()
    return [(each.step, dict(each.values)) for each in found]


def losses(*pairs):
    return [(step, {"train/loss": loss}) for step, loss in pairs]


def test_lines_of_one_step_are_one_reading_that_is_given_when_the_next_begins():
    reader = LogReader(patterns_of("founding"), clock=lambda: 7.0)
    assert reader.feed(b"Epoch 3, Batch 120: Gradient norm: 45.30\n  Loss: 2.31\n") == []
    assert reader.feed(b"  a.weight: 40.5\n  b.weight: 20.0\n") == []
    (reading,) = reader.feed(b"Epoch 3, Batch 121: Gradient norm: 46\n")
    assert (reading.step, reading.time) == (120, 7.0)
    assert reading.values == {"grad/norm/main": 45.3, "train/loss": 2.31}
    assert reading.parameters == {"main": {"a.weight": 40.5, "b.weight": 20.0}}


def test_a_batch_of_an_epoch_of_known_length_is_its_place_in_the_training():
    text = "Epoch 3/200\nBatch 1/400\nLoss: 2\nBatch 400/400\nLoss: 3\n"
    text += "Epoch 4/200\nBatch 1/400\nLoss: 4\n"
    assert read(text) == losses((801, 2.0), (1200, 3.0), (1201, 4.0))


def test_epochs_may_begin_at_zero():
    text = "".join(f"Epoch {e}, Batch {b}/2: Loss: {e}.{b}\n" for e in (0, 1) for b in (1, 2))
    assert [step for step, _ in read(text)] == [1, 2, 3, 4]


def test_batches_without_a_length_go_on_growing_over_the_epochs():
    lines = [f"Epoch {e}, Batch {b}: Loss: {e}.{b}\n" for e in (0, 1, 2) for b in (0, 1, 2)]
    assert [step for step, _ in read("".join(lines))] == list(range(9))


def test_epochs_alone_are_the_steps():
    assert read("Epoch 1: Loss: 3\nEpoch 2: Loss: 2\n") == losses((1, 3.0), (2, 2.0))


def test_several_readings_of_an_epoch_grow_by_themselves():
    text = "Epoch 5\nLoss: 3\nLoss: 2\nLoss: 1\nEpoch 6\nLoss: 9\n"
    assert read(text) == losses((5, 3.0), (6, 2.0), (7, 1.0), (8, 9.0))


def test_where_nothing_is_printed_but_values_steps_are_counted():
    text = "loss 3\nnorm 1\nloss 2\nnorm 5\n"
    assert read(text, ["loss (?P<loss>.*)", "norm (?P<norm>.*)"]) == [
        (0, {"train/loss": 3.0, "grad/norm/main": 1.0}),
        (1, {"train/loss": 2.0, "grad/norm/main": 5.0}),
    ]


def test_a_step_that_is_printed_is_believed_also_when_it_goes_back():
    pattern = [r"step (?P<step>\d+) loss (?P<loss>\S+)"]
    text = "step 10 loss 1\nstep 20 loss 2\nstep 10 loss 3\n"
    assert read(text, pattern) == losses((10, 1.0), (20, 2.0), (10, 3.0))


def test_a_bar_that_is_drawn_again_at_the_same_step_is_one_reading():
    bar = "\r 30%|###  | {}/400 [00:01<00:02, 9.8it/s, loss={}, lr=1e-4]"
    drawn = "".join(bar.format(*each) for each in [(1, 2.5), (1, 2.25), (2, 2.25), (2, 2.0)])
    assert [(s, v["train/loss"]) for s, v in read(drawn + "\n", "tqdm")] == [(1, 2.25), (2, 2.0)]


def test_a_bar_drawn_again_does_not_hide_that_the_loss_was_no_number():
    bar = "\r 30%|###  | 7/400 [00:01<00:02, 9.8it/s, loss={}]"
    ((_, values),) = read(bar.format("nan") + bar.format("2.0") + "\n", "tqdm")
    assert math.isnan(values["train/loss"])


def test_a_drawing_that_is_not_whole_does_not_count_yet():
    reader = LogReader(patterns_of("tqdm"), clock=lambda: 0.0)
    reader.feed(b"\r 1%| | 1/400 [00:01<00:02, 9.8it/s, loss=2.5]")
    assert reader.feed(b"\r 1%| | 2/400 [00:01<00:02, 9.8it/s, loss=2.2") == []
    (reading,) = reader.feed(b"5]\r 1%| | 3/400 [00:01<00:02, 9.8it/s, loss=2]\r")[:1]
    assert (reading.step, reading.values) == (1, {"train/loss": 2.5})
    assert [each.values["train/loss"] for each in reader.flush()] == [2.0]


def test_what_a_bar_goes_on_showing_of_a_validation_is_found_once():
    bar = "\rEpoch 0: 1%| | {}/400 [00:01<00:02, 9.8it/s, loss=1.0, val_loss={}]"
    drawn = "".join(bar.format(*each) for each in [(1, 2.5), (2, 2.5), (3, 2.25), (4, 2.25)])
    found = [values.get("val/loss") for _, values in read(drawn + "\n", "lightning")]
    assert found == [2.5, None, 2.25, None]


def test_bars_of_validation_and_of_downloads_are_no_training():
    bars = [
        "\rValidation DataLoader 0: 5%| | 1/20 [00:00<00:00, 15.1it/s, loss=3]",
        "\rmodel.safetensors: 45%|## | 120/400 [00:00<00:00, 15.1MB/s]",
    ]
    assert read("".join(bars) + "\n", "tqdm") == []


def test_a_reading_is_given_after_a_quiet_time():
    now = [0.0]
    reader = LogReader(patterns_of("founding"), clock=lambda: now[0], quiet_s=10)
    reader.feed(b"Epoch 3: Gradient norm: 1,557,911\n")
    now[0] = 9.0
    assert reader.feed(b"") == []
    now[0] = 10.0
    (reading,) = reader.feed(b"")
    assert (reading.step, reading.values, reading.time) == (3, {"grad/norm/main": 1557911.0}, 0.0)
    assert reader.feed(b"") == []


def test_a_log_that_says_other_things_is_not_quiet():
    now = [0.0]
    reader = LogReader(patterns_of("founding"), clock=lambda: now[0], quiet_s=10)
    reader.feed(b"Epoch 3: Loss: 2\n")
    now[0] = 8.0
    reader.feed(b"saving\n")
    now[0] = 17.0
    assert reader.feed(b"") == []
    now[0] = 18.0
    assert [each.step for each in reader.feed(b"")] == [3]


def test_what_comes_after_the_quiet_time_goes_with_the_next_step():
    now = [0.0]
    reader = LogReader(patterns_of("founding"), clock=lambda: now[0], quiet_s=10)
    reader.feed(b"Epoch 1, Batch 5: Loss: 3\n")
    now[0] = 60.0
    assert [each.step for each in reader.feed(b"")] == [5]
    saved = json.loads(json.dumps(reader.state_dict()))
    reader = LogReader(patterns_of("founding"), clock=lambda: now[0], quiet_s=10)
    reader.load_state_dict(saved)
    reader.feed(b"Epoch 1 done, Val Loss: 2.5\n")
    now[0] = 120.0
    assert reader.feed(b"") == []
    reader.feed(b"Epoch 1, Batch 6: Loss: 2\n")
    (reading,) = reader.flush()
    assert (reading.step, reading.values) == (6, {"val/loss": 2.5, "train/loss": 2.0})


def test_a_validation_that_was_found_before_a_checkpoint_is_not_found_again():
    bar = b"\rEpoch 1: 30%%|#  | %d/100 [00:01<00:02, 9.0it/s, loss=2.0, val_loss=1.5]"
    first, second = (LogReader(patterns_of("tqdm"), clock=lambda: 0.0) for _ in range(2))
    first.feed(bar % 30 + bar % 31)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found = second.feed(bar % 32) + second.flush()
    assert [(each.step, "val/loss" in each.values) for each in found] == [
        (30, True),
        (31, False),
        (32, False),
    ]


@pytest.mark.parametrize("cut", range(1, 90, 7))
def test_a_reader_that_is_saved_in_mid_line_goes_on_as_if_nothing_had_been(cut):
    text = "Epoch 1, Batch 2: Gradient norm: 6.9\n Loss: 2\n é.w: 3\nEpoch 2, Batch 1: Loss: 5\n"
    data = text.encode() + b"Epoch 2, Batch 2: Loss: 1\n"
    first, second = (LogReader(patterns_of("founding"), clock=lambda: 1.0) for _ in range(2))
    found = first.feed(data[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += second.feed(data[cut:]) + second.flush()
    whole = LogReader(patterns_of("founding"), clock=lambda: 1.0)
    assert found == whole.feed(data) + whole.flush()
    assert [each.step for each in found] == [2, 4, 5]


def test_what_hpckit_init_prints_is_read_by_the_founding_set():
    line = "epoch   {}/10  loss 0.7520  gradient norm 0.678  accuracy 0.565  0.21 s\n"
    found = LogReader(patterns_of("founding"))
    readings = found.feed("".join(line.format(n) for n in (1, 2)).encode()) + found.flush()
    assert [each.step for each in readings] == [1, 2]
    assert readings[0].values == {"train/loss": 0.752, "grad/norm/main": 0.678}


def test_a_dictionary_printed_into_the_bars_line_counts():
    text = "\r  8%|x  | 5/60 [00:01<00:10]{'loss': 2.5, 'grad_norm': 6.5}"
    found = LogReader(patterns_of("huggingface"))
    readings = found.feed((text + "\n").encode()) + found.flush()
    assert [(each.step, dict(each.values)) for each in readings] == [
        (5, {"train/loss": 2.5, "grad/norm/main": 6.5})
    ]


def test_lightnings_loss_of_the_step_is_the_loss():
    found = LogReader(patterns_of([r"^(?P<pairs>.*)$"]))
    text = b"step=1, train_loss_step=2.5, train_loss_epoch=2.7, grad_norm=6.5\n"
    [reading] = found.feed(text) + found.flush()
    found.close()
    assert reading.values["train/loss"] == 2.5
    assert reading.values["train/loss_epoch"] == 2.7


def test_a_program_that_skipped_nothing_has_no_gate_of_ours():
    found = LogReader(patterns_of("megatron"))
    line = (
        " iteration      {}/     500 | lm loss: 2.3E+00 | grad norm: 6.9 | "
        "number of skipped iterations:   {} | number of nan iterations:   0 |\n"
    )
    text = line.format(12, 0) + line.format(13, 1)
    readings = found.feed(text.encode()) + found.flush()
    assert "grad/gated/main" not in readings[0].values
    assert readings[1].values["grad/gated/main"] == 1.0
