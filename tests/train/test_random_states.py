"""Random states are plain data, and drawing goes on where they were taken."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from hpckit.train import random_states
from hpckit.train.feed import generators
from tests.train.conftest import assert_same
from tests.train.feed_loaders import loaded, saved


def draws() -> list[Any]:
    # Normal ones: two come at once, and the second is a part of the state.
    return [
        *(random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn())),
        *(torch.rand(2), torch.randn(3), torch.randperm(5)),
    ]


def test_drawing_goes_on_where_the_states_were_taken() -> None:
    draws()
    (state,) = loaded(saved(random_states.capture()))
    expected = draws()
    for _ in range(3):
        draws()
    random_states.restore(state)
    assert_same(draws(), expected)


def test_a_state_is_not_changed_by_what_is_drawn_later() -> None:
    state = random_states.capture()
    before = saved(state)
    draws()
    random_states.restore(state)
    draws()
    assert saved(state) == before


def test_numpy_is_left_out_where_nobody_imported_it() -> None:
    state = random_states.capture()
    del state["numpy"]
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    random_states.restore(state)
    assert np.random.rand() == expected
    told = "import sys; sys.modules['numpy'] = None; import hpckit.train.random_states as r"
    code = f"{told}; s = r.capture(); assert 'numpy' not in s, list(s); r.restore(s)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_numbers_apart_take_none_of_the_others() -> None:
    before = random_states.capture()
    with random_states.apart("one"):
        first = draws()
    assert_same(random_states.capture(), before)
    with random_states.apart("one"):
        assert_same(draws(), first)
    with random_states.apart("two"):
        assert draws()[0] != first[0]


def test_one_name_gives_each_library_numbers_of_its_own() -> None:
    random_states.seed_for("epoch 1")
    numpy = np.random.randint(0, 2**32, 4, dtype=np.uint32).tolist()
    again = np.random.RandomState(torch.initial_seed() % 2**32)
    assert numpy != again.randint(0, 2**32, 4, dtype=np.uint32).tolist()


@pytest.mark.parametrize(
    "owned",
    [
        torch.Generator(),
        random.Random(1),
        np.random.RandomState(1),
        *(
            np.random.Generator(kind(1))
            for kind in (
                np.random.PCG64,
                np.random.PCG64DXSM,
                np.random.MT19937,
                np.random.Philox,
                np.random.SFC64,
            )
        ),
    ],
    ids=lambda owned: repr(owned).split(" at ")[0],
)
def test_every_kind_of_generator_goes_on(owned: Any) -> None:
    class Loader:
        rng = None

    def draw() -> list[float]:
        if isinstance(owned, torch.Generator):
            return torch.randn(3, generator=owned).tolist()
        draw_one = owned.normalvariate if isinstance(owned, random.Random) else owned.normal
        return [draw_one(0, 1) for _ in range(3)]

    loader = Loader()
    loader.rng = owned
    draw()
    (states,) = loaded(saved(generators.capture(loader)))
    expected = draw()
    draw()
    generators.restore(loader, states)
    assert draw() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_gpus_numbers_go_on_too() -> None:
    torch.rand(2, device="cuda")
    (state,) = loaded(saved(random_states.capture()))
    expected = torch.rand(5, device="cuda").cpu()
    torch.rand(5, device="cuda")
    random_states.restore(state)
    assert_same(torch.rand(5, device="cuda").cpu(), expected)
    # Saved with more GPUs than there are now.
    state["cuda"] *= 9
    random_states.restore(state)
