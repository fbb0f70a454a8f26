"""What parameters and optimizers of an unedited program are called."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.integrations.watching import Encoder, Told, Watching, at, batch, train


class Decoder(Encoder):
    pass


class Loss(nn.Module):
    """The outermost module is somebody's loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Compiled(nn.Module):
    """As torch.compile wraps a model, by the same name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(x)


def parameters_told(watching: Watching) -> set[str]:
    return set(watching.readings()[0].parameters["main"])


def test_parameters_have_the_names_that_their_model_gives_them(watching: Watching) -> None:
    watching.begin()
    model = Encoder()
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), 1)
    assert parameters_told(watching) == {name for name, _ in model.named_parameters()}


def test_what_wraps_a_model_is_no_part_of_its_names(watching: Watching) -> None:
    watching.begin()
    model = Encoder()
    wrapped = nn.DataParallel(Compiled(model))
    train(wrapped, torch.optim.SGD(model.parameters(), lr=0.01), 1)
    assert parameters_told(watching) == {name for name, _ in model.named_parameters()}


def test_the_outermost_module_names_a_part_of_it(watching: Watching) -> None:
    watching.begin()
    outer = Loss(Encoder())
    train(outer, torch.optim.SGD(outer.model.layers[2].parameters(), lr=0.01), 1)
    assert parameters_told(watching) == {"model.layers.2.weight", "model.layers.2.bias"}


def test_two_models_of_one_optimizer_are_told_apart(watching: Watching, told: Told) -> None:
    watching.begin()
    encoder, decoder = Encoder(), Decoder()
    optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], lr=0.01)
    decoder(encoder(batch(0))).square().mean().backward()
    optimizer.step()
    names = parameters_told(watching)
    assert {"Encoder.layers.0.weight", "Decoder.layers.0.weight"} < names
    assert len(names) == 8
    assert "attached to main: SGD, 8 parameters of Encoder and Decoder" in told()


def test_parameters_of_no_module_have_the_optimizers_own_places(watching: Watching) -> None:
    watching.begin()
    weights = [torch.randn(4, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD(weights, lr=0.01)
    sum(each.square().sum() for each in weights).backward()
    optimizer.step()
    assert parameters_told(watching) == {"group 0, 0", "group 0, 1"}


def test_the_parameter_that_explodes_is_named(watching: Watching, told: Told) -> None:
    watching.begin()
    model = Encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    train(model, optimizer, 100)
    for step in range(3):
        optimizer.zero_grad()
        weight = model.layers[2].weight
        (model(batch(step)).square().mean() + weight.sum() * 1e4 * 10**step).backward()
        optimizer.step()
    (said,) = [each for each in told() if "step 100" in each]
    assert "worst parameter layers.2.weight (100% of it)" in said
    assert watching.values("grad/gated/main")[99:] == [0.0, 1.0, 1.0, 1.0]


class Gan:
    """Two optimizers, as people step them."""

    def __init__(self, *, in_one: bool = False, critic: int = 1) -> None:
        self.generator, self.critic = Encoder(), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
        self.generator.layers.append(nn.BatchNorm1d(4))
        parts = {"generator": self.generator, "critic": self.critic}
        self.model = nn.ModuleDict(parts) if in_one else None
        self.opt_g = torch.optim.Adam(self.generator.parameters(), lr=1e-3)
        self.opt_c = torch.optim.Adam(self.critic.parameters(), lr=1e-3)
        self.every = critic

    def train(self, passes: int, factor: Callable[[int], float] = lambda step: 1.0) -> None:
        for step in range(passes):
            made = self.generator(batch(step))
            self.opt_c.zero_grad()
            loss = (self.critic(made.detach()) - self.critic(batch(-step - 1))).mean()
            (loss * factor(step)).backward()
            self.opt_c.step()
            if step % self.every == self.every - 1:
                self.opt_g.zero_grad()
                (-self.critic(made).mean()).backward()
                self.opt_g.step()


def test_two_optimizers_of_a_pass_are_one_step(watching: Watching, told: Told) -> None:
    clips = {"optimizer_1": {"clip": 1e-6}, "Encoder": {"clip": 1e-5}}
    watching.begin(monitor={"optimizers": clips})
    gan = Gan()
    gan.train(10, factor=at(7))
    readings = watching.readings()
    assert [each.step for each in readings] == list(range(10))
    for reading in readings:
        assert {"grad/norm/optimizer_1", "train/loss/Encoder", "lr/Encoder"} <= set(reading.values)
    gated = [each.values["grad/gated/optimizer_1"] for each in readings]
    assert gated == [0.0] * 7 + [1.0, 0.0, 0.0]
    assert all(each.values["grad/gated/Encoder"] == 0.0 for each in readings)
    assert all(each.values["grad/clip/Encoder"] < 0.1 for each in readings)
    said = told()
    assert "attached to Encoder: Adam, 6 parameters of Encoder" in said
    assert [each for each in said if each.startswith("step 7: optimizer_1: loss nan")]


def test_the_parts_of_a_model_give_their_optimizers_names(watching: Watching) -> None:
    watching.begin()
    gan = Gan(in_one=True)
    gan.train(2)
    assert {"grad/norm/generator", "grad/norm/critic"} <= set(watching.readings()[0].values)


def test_a_critic_that_steps_more_often_has_steps_of_its_own(watching: Watching) -> None:
    watching.begin()
    gan = Gan(in_one=True, critic=3)
    gan.train(9)
    with_both = ["grad/norm/generator" in each.values for each in watching.readings()]
    assert with_both == [False, False, True] * 3


def test_a_pass_that_is_seen_to_be_over_late_puts_buffers_back_all_the_same(
    watching: Watching,
) -> None:
    watching.begin()
    gan = Gan(in_one=True, critic=3)
    # By the time that it is seen, the next pass has the generator's graph at hand.
    gan.train(9, factor=at(4))
    assert watching.values("grad/gated/critic") == [0.0] * 4 + [1.0] + [0.0] * 4
    norm = gan.generator.layers[3]
    # The fifth pass's forward is taken back, and that of the next one, which had begun.
    assert norm.num_batches_tracked == 7
    assert all(torch.isfinite(each).all() for each in gan.generator.state_dict().values())


def test_what_the_spec_says_of_nobody_is_told(watching: Watching, told: Told) -> None:
    watching.begin(
        monitor={"optimizers": {"generator": {"clip": 1}, "optimizer": {"clip": 1}}},
        heal={"explosion": {"of": "optimizer"}},
    )
    gan = Gan(in_one=True)
    gan.train(3)
    warnings = [each for each in told() if each.startswith("warning")]
    assert warnings == [
        "warning: monitor.optimizers: optimizer is none of these: "
        "critic or optimizer_1, generator or optimizer_2",
        "warning: heal.explosion.of: no optimizer is registered as optimizer",
    ]
