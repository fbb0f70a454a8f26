"""Norms are right whatever the gradients are: the traps of half precision, overflow and sharing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hpckit.monitor.gradients import are_plain, measure
from hpckit.train import Stepper
from tests.train.conftest import backward, small_model


def with_gradients(*gradients: Tensor) -> list[nn.Parameter]:
    found = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.ones_like(gradient.to_dense()))
        parameter.grad = gradient
        found.append(parameter)
    return found


def reading_of(parameters: list[nn.Parameter], **settings: object) -> dict[str, float]:
    """What one step reads, by the names without their optimizer."""
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    kept: list[dict[str, float]] = []

    class Keeps:
        def write(self, reading) -> None:  # type: ignore[no-untyped-def]
            kept.append(
                {**reading.values, **{f"p/{k}": v for k, v in reading.parameters["main"].items()}}
                if reading.parameters
                else dict(reading.values)
            )

        def incident(self, incident: object) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    model = nn.ParameterList(parameters)
    stepper = Stepper(model=model, optimizers=optimizer, sinks=[Keeps()], **settings)  # type: ignore[arg-type]
    stepper.step(loss=1.0)
    stepper.end()
    return kept[0]


def test_total_and_each_norm_are_those_before_clipping() -> None:
    found = reading_of(with_gradients(torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])), clip=0.5)
    assert found["grad/norm/main"] == pytest.approx(5.0)
    assert found["grad/clip/main"] == pytest.approx(0.1, rel=1e-5)
    assert found["p/0"] == pytest.approx(3.0)
    assert found["p/1"] == pytest.approx(4.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_that_overflow_half_precision_do_not_overflow_the_norm(dtype: torch.dtype) -> None:
    gradient = torch.full((100,), 6e4, dtype=dtype)
    assert float(measure([gradient], plain=True).total) == pytest.approx(6e5, rel=1e-2)


def test_finite_gradients_whose_squares_overflow_are_measured_and_clipped() -> None:
    parameters = with_gradients(torch.full((4,), 3e25), torch.full((9,), 1.0))
    found = reading_of(parameters, clip=1.0)
    assert found["grad/norm/main"] == pytest.approx(6e25, rel=1e-6)
    assert found["grad/gated/main"] == 0.0
    assert torch.allclose(parameters[0], torch.full((4,), 1 - 0.1 * 0.5))


def test_one_infinite_element_is_not_taken_for_an_overflow() -> None:
    found = reading_of(with_gradients(torch.tensor([1.0, math.inf]), torch.ones(3)))
    assert found["grad/norm/main"] == math.inf
    assert found["grad/gated/main"] == 1.0
    assert found["p/1"] == pytest.approx(math.sqrt(3))


def test_several_types_are_measured_together() -> None:
    gradients = [torch.full((4,), 2.0, dtype=each) for each in (torch.float16, torch.float64)]
    gradients.append(torch.full((4,), 2.0))
    assert not are_plain(gradients)
    norms = measure(gradients)
    assert norms.each.tolist() == pytest.approx([4.0, 4.0, 4.0])
    assert float(norms.total) == pytest.approx(math.sqrt(48))


def test_repeated_rows_of_a_sparse_gradient_are_added_before_they_are_squared() -> None:
    model = nn.Embedding(10, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, clip=1.0)
    loss = model(torch.tensor([2, 2, 5])).sum()
    loss.backward()
    before = model.weight.detach().clone()
    stepper.step(loss=loss)
    kept = stepper.lag.state_dict()
    assert kept == []
    stepper.end()
    reading = stepper.latest.values()
    assert reading["grad/norm/main"] == pytest.approx(math.sqrt(3 * 4 + 3))
    moved = (model.weight - before).abs().sum(1)
    assert moved.nonzero().flatten().tolist() == [2, 5]


def test_a_sparse_gradient_is_clipped_and_gated() -> None:
    model = nn.Embedding(10, 3, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    stepper = Stepper(model=model, optimizers=optimizer, clip=1.0)
    before = model.weight.detach().clone()
    (model(torch.tensor([2, 2])).sum() * 100).backward()
    stepper.step()
    stepper.end()
    assert float((model.weight.detach() - before).norm()) == pytest.approx(1.0, rel=1e-4)
    before = model.weight.detach().clone()
    optimizer.zero_grad()
    (model(torch.tensor([1])).sum() * math.nan).backward()
    stepper.step()
    [incident] = stepper.end()
    assert incident.kind == "non_finite"
    assert torch.equal(model.weight, before)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_that_is_listed_twice_counts_once() -> None:
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.ones(4)
    assert reading_of([parameter, parameter])["grad/norm/main"] == pytest.approx(2.0)


def test_tied_weights_count_once_and_have_their_first_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x))

    model = Tied()
    optimizer = torch.optim.AdamW([*model.embed.parameters(), *model.head.parameters()])
    stepper = Stepper(model=model, optimizers=optimizer)
    loss = model(torch.tensor([1, 2])).square().mean()
    loss.backward()
    expected = float(model.embed.weight.grad.norm())
    stepper.step(loss=loss)
    stepper.end()
    assert stepper.watched["main"].parameters.names == ["embed.weight"]
    assert stepper.latest.values()["grad/norm/main"] == pytest.approx(expected)


def test_frozen_and_absent_gradients_are_left_out_and_named_right() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    stepper = Stepper(model=model, optimizers=optimizer)
    loss = model[1](model[0](torch.randn(2, 3))).sum()
    loss.backward()
    stepper.step(loss=loss)
    stepper.end()
    listed, flight = stepper.latest.details["main"]
    assert listed == ["1.weight", "1.bias"]
    assert flight.land() == pytest.approx(
        [float(model[1].weight.grad.norm()), float(model[1].bias.grad.norm())]
    )


def test_what_thaws_later_is_watched_from_then_on() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = torch.optim.AdamW(model[1].parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    backward_of = lambda: model(torch.randn(2, 3)).sum().backward()  # noqa: E731
    backward_of()
    stepper.step()
    stepper.end()
    optimizer.add_param_group({"params": list(model[0].parameters())})
    backward_of()
    stepper.step()
    stepper.end()
    assert stepper.latest.details["main"][0] == ["1.weight", "1.bias", "0.weight", "0.bias"]


def test_a_step_without_any_gradient_or_parameter_is_a_norm_of_zero() -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    stepper.step(loss=1.0)
    assert stepper.end() == []
    empty = torch.optim.SGD([{"params": []}], lr=0.1)
    stepper = Stepper(model=nn.Identity(), optimizers=empty)
    stepper.step()
    assert stepper.end() == []


def test_accumulated_gradients_read_as_one_large_batch() -> None:
    def norm(parts: int) -> float:
        torch.manual_seed(3)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        stepper = Stepper(model=model, optimizers=optimizer, clip=1.0)
        data = torch.randn(8, 4)
        for part in data.chunk(parts):
            (model(part).square().mean() / parts).backward()
        stepper.step()
        stepper.end()
        return stepper.latest.values()["grad/norm/main"]

    assert norm(4) == pytest.approx(norm(1), rel=1e-5)


def test_names_are_those_that_the_author_gave() -> None:
    from hpckit.train.parameters import plain_name

    assert plain_name("_orig_mod.module.a.weight") == "a.weight"
    assert plain_name("module._orig_mod.a.weight") == "a.weight"
    assert plain_name("a._orig_mod.b.weight") == "a.b.weight"
    assert plain_name("encoder.module.weight") == "encoder.module.weight"


def test_the_ratio_of_update_to_weight_is_near_the_true_one() -> None:
    model = nn.Sequential(nn.Linear(100, 200), nn.Linear(200, 50))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    stepper = Stepper(model=model, optimizers=optimizer)
    true = []
    for _ in range(300):
        old = [each.detach().clone() for each in model.parameters()]
        optimizer.zero_grad()
        # Something that cannot be learned: the updates stay as large as they are.
        loss = (model(torch.randn(6, 100)) - torch.randn(6, 50)).square().mean()
        loss.backward()
        stepper.step(loss=loss)
        stepper.end()
        moved = sum(
            float((a - b).norm()) ** 2 for a, b in zip(model.parameters(), old, strict=True)
        )
        true.append(math.sqrt(moved / sum(float(each.norm()) ** 2 for each in old)))
    read = stepper.watched["main"].updates.ratio
    assert read == pytest.approx(sum(true[-128:]) / 128, rel=0.2)


def test_an_incident_names_the_worst_parameter_and_its_share() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    for _ in range(100):
        stepper.step(loss=backward(model, optimizer))
        stepper.end()
    loss = backward(model, optimizer)
    model[1].weight.grad.mul_(1e5)
    stepper.step(loss=loss)
    [incident] = stepper.end()
    assert incident.parameter == "1.weight"
    assert incident.share == pytest.approx(1.0)
    assert "times its usual" in str(incident)
    assert "worst parameter 1.weight (100% of it)" in str(incident)


def test_of_a_nan_the_parameter_where_it_began_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    loss = backward(model, optimizer)
    model[1].bias.grad[2] = math.nan
    stepper.step(loss=loss)
    [incident] = stepper.end()
    assert incident.parameter == "1.bias"


def test_a_sparse_gradient_that_comes_later_is_measured_and_applied() -> None:
    table, head = nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1)
    optimizer = torch.optim.SGD([*table.parameters(), *head.parameters()], lr=0.1)
    stepper = Stepper(model=[table, head], optimizers=optimizer)
    for inputs in (torch.ones(2, 3), table(torch.tensor([1, 1, 4]))):
        optimizer.zero_grad()
        head(inputs).sum().backward()
        stepper.step()
        stepper.end()
    grads = [each.grad.to_dense() for each in optimizer.param_groups[0]["params"]]
    norm = torch.cat([each.flatten() for each in grads]).norm()
    assert stepper.latest.values()["grad/norm/main"] == pytest.approx(float(norm), rel=1e-5)
