"""What is read of the data ends no training, whatever the data are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hpckit.train.data_readings import DataReadings, fingerprint
from tests.train.inside import Lives, Training


def nested(layout: torch.layout) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)


def csr() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(3).to_sparse_csr()


def quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


# And how many items it is read as, where that can be told.
FIRSTS: dict[str, tuple[Callable[[], Tensor], float | None]] = {
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), 3),
    "sparse": (lambda: torch.eye(3).to_sparse(), 3),
    "quantized": (quantized, 3),
    "sparse rows": (csr, 3),
    "nested": (lambda: nested(torch.strided), None),
    "jagged": (lambda: nested(torch.jagged), None),
    # What comes after it has items.
    "empty": (lambda: torch.empty(0, 4), 5),
    "0-dim": (lambda: torch.tensor(3.0), 1),
    "bool": (lambda: torch.ones(3, dtype=torch.bool), 3),
    "not contiguous": (lambda: torch.ones(4, 3).t(), 3),
    "that wants gradients": (lambda: torch.ones(3, requires_grad=True), 3),
}


@pytest.mark.parametrize("name", FIRSTS)
def test_a_batch_whose_first_tensor_is_odd_is_read_as_far_as_it_can_be(name: str) -> None:
    first, size = FIRSTS[name]
    readings = DataReadings()
    for _ in range(2):
        readings.note({"x": [first(), torch.ones(5)]}, 0.5, None)
    found = readings.take()
    assert found["time/data"] == 1.0
    assert found.get("data/size") == (None if size is None else 2 * size)


def test_the_same_numbers_in_another_order_are_another_batch() -> None:
    prints = []
    for x in (torch.arange(2.0), torch.arange(2.0), torch.arange(2.0).flip(0)):
        readings = DataReadings()
        readings.note(x, 0.0, None)
        prints.append(readings.take()["data/batch"])
    assert prints[0] == prints[1] != prints[2]


# A picture's black border, and a sentence that begins as all do.
def pictures() -> Tensor:
    return torch.nn.functional.pad(torch.rand(64, 1, 20, 20), (4, 4, 4, 4))


def sentences() -> Tensor:
    words = torch.randint(0, 30_000, (64, 128))
    words[:, 0] = 101
    return words


@pytest.mark.parametrize("made", [pictures, sentences])
def test_ordinary_batches_are_not_taken_for_the_same(made: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    assert len({fingerprint(made()) for _ in range(50)}) == 50


def test_a_batch_of_nothing_but_empty_tensors_has_no_items() -> None:
    readings = DataReadings()
    readings.note((torch.empty(0, 4), torch.empty(0), torch.tensor(0)), 0.0, None)
    assert readings.take()["data/size"] == 0


@pytest.mark.parametrize("name", FIRSTS)
def test_a_batch_whose_first_tensor_is_odd_ends_no_training(life: Lives, name: str) -> None:
    training = Training(life.begin(), schedule=None)
    run, first = training.run, FIRSTS[name][0]
    loader: list[Any] = [(first(), x, y) for x, y in training.loader]
    for _, x, y in run.batches(loader, epochs=3):
        training.optimizer.zero_grad()
        loss = (training.model(x) - y).square().mean()
        loss.backward()
        run.step(training.optimizer, loss=loss)
    assert run.step_number == 30
