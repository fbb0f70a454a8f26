"""What watching a step costs, against clip_grad_norm_(foreach=True) and the same optimizer's step.

Ours measures the total and each parameter's norm, gates, clips, steps, reads everything on the
host, judges it with the detector and all health rules, and hands the reading to the writer's
buffer. Beside it, in the same run: one `.item()` a parameter, a histogram of each gradient as
`wandb.watch` takes it, and the ZClip rule. Every way steps its own copy of one model: some steps
running, as a training does, then it is another's turn, so that a busy machine hits all alike. A
ratio is that of the times summed up, without the tenth of the steps that took longest: what happens
at one step in sixteen counts.

    python benchmarks/watch_overhead.py [--device cuda] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.train import Stepper

# Tensors and parameters in all.
SIZES = ((20, 10**5), (200, 10**6), (2000, 10**6), (200, 10**7), (2000, 10**7), (100, 10**8))
CLIP = 1.0
SECONDS = 6.0
FEWEST = 5
# Steps running of a small model; the first of them fill the caches and do not count.
RUNNING, WARM = 12, 2
SMALL = 2 * 10**6

Step = Callable[[Tensor], None]
Model = list[nn.Parameter]


def model_of(tensors: int, numbers: int, device: str) -> Model:
    """Square matrices and vectors, as most models have: every other tensor is a bias."""
    torch.manual_seed(0)
    side = max(2, round(math.sqrt(numbers / (tensors / 2))))
    shapes = [(side, side) if index % 2 == 0 else (side,) for index in range(tensors)]
    return [nn.Parameter(torch.randn(shape, device=device) / side**0.5) for shape in shapes]


def forward(model: Model, batch: Tensor) -> Tensor:
    """Through every layer; each adds so little that any depth stays in bounds."""
    x, little = batch, 2.0 / len(model)
    for weight, bias in zip(model[::2], model[1::2], strict=True):
        x = x + little * torch.relu(nn.functional.linear(x, weight, bias))
    return x.square().mean()


def rival(model: Model, optimizer: Any) -> Step:
    def step(loss: Tensor) -> None:
        nn.utils.clip_grad_norm_(model, CLIP, foreach=True)
        optimizer.step()

    return step


def ours(model: Model, optimizer: Any, folder: Path) -> Step:
    writer = ReadingsWriter(folder)
    Way.sinks.append(writer)
    stepper = Stepper(
        model=nn.ParameterList(model), optimizers=optimizer, clip=CLIP, sinks=[writer]
    )

    def step(loss: Tensor) -> None:
        stepper.step(loss=loss)
        stepper.end()

    return step


def items(model: Model, optimizer: Any) -> Step:
    """The loop of many scripts: each parameter's norm, one wait at a time."""

    def step(loss: Tensor) -> None:
        norms = [each.grad.norm().item() for each in model if each.grad is not None]
        total = math.sqrt(sum(norm * norm for norm in norms))
        if total > CLIP:
            for each in model:
                if each.grad is not None:
                    each.grad.mul_(CLIP / (total + 1e-6))
        optimizer.step()

    return step


def histograms(model: Model, optimizer: Any) -> Step:
    """64 bins of each gradient, on the host."""

    def step(loss: Tensor) -> None:
        nn.utils.clip_grad_norm_(model, CLIP, foreach=True)
        for each in model:
            if each.grad is not None:
                flat = each.grad.reshape(-1).float()
                low, high = flat.min().item(), flat.max().item()
                torch.histc(flat, 64, low, high if high > low else low + 1.0).cpu()
        optimizer.step()

    return step


def zclip(model: Model, optimizer: Any) -> Step:
    """The rule as published: the norm is read each step, z above 2.5 of an EMA is clipped."""
    state: dict[str, float] = {}

    def step(loss: Tensor) -> None:
        total = torch.norm(torch.stack([e.grad.norm(2) for e in model if e.grad is not None]))
        norm = total.item()
        mean, variance = state.get("mean", norm), state.get("variance", 1.0)
        z = (norm - mean) / (math.sqrt(variance) + 1e-6)
        most = mean + 2.5 * math.sqrt(variance) if z > 2.5 else norm
        if most < norm:
            for each in model:
                if each.grad is not None:
                    each.grad.mul_(most / (norm + 1e-6))
        state["mean"] = 0.97 * mean + 0.03 * most
        state["variance"] = 0.97 * variance + 0.03 * (most - mean) ** 2
        optimizer.step()

    return step


def optimizer_of(model: Model, kind: str) -> Any:
    if kind == "rmsprop":
        return torch.optim.RMSprop(model, lr=1e-6)
    return torch.optim.AdamW(model, lr=1e-6, fused=kind == "fused")


def timed(call: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Way:
    """One way to step, with a model of its own."""

    sinks: ClassVar[list[ReadingsWriter]] = []

    def __init__(self, model: Model, kind: str, make: Callable[[Model, Any], Step]) -> None:
        self.model = [nn.Parameter(each.detach().clone()) for each in model]
        self.optimizer = optimizer_of(self.model, kind)
        self.step = make(self.model, self.optimizer)
        self.apart: list[float] = []
        self.whole: list[float] = []

    def run(self, batch: Tensor, device: str, *, small: bool) -> None:
        """Some steps running."""
        before = len(self.apart)
        for _ in range(RUNNING if small else 1):
            self.turn(batch, device)
        if small:
            del self.apart[before : before + WARM], self.whole[before : before + WARM]

    def turn(self, batch: Tensor, device: str) -> None:
        loss = torch.zeros(())

        def learn() -> None:
            nonlocal loss
            for each in self.model:
                each.grad = None
            loss = forward(self.model, batch)
            loss.backward()

        learning = timed(learn, device)
        stepping = timed(lambda: self.step(loss.detach()), device)
        self.apart.append(stepping)
        self.whole.append(learning + stepping)


def measure(tensors: int, numbers: int, kind: str, device: str, folder: Path) -> dict[str, Any]:
    """Each way's seconds, and the ratios to the first."""
    model = model_of(tensors, numbers, device)
    makers: dict[str, Callable[[Model, Any], Step]] = {
        "clip_grad_norm_": rival,
        "hpckit": lambda m, o: ours(m, o, folder / f"{kind}-{tensors}-{numbers}"),
    }
    if numbers < 10**8:
        makers |= {".item()": items, "histograms": histograms, "zclip": zclip}
    ways = {name: Way(model, kind, make) for name, make in makers.items()}
    batch = torch.randn(32, model[0].shape[0], device=device)
    for way in ways.values():
        for _ in range(3):
            way.turn(batch, device)
        way.apart.clear()
        way.whole.clear()
    until, order = time.perf_counter() + SECONDS, list(ways.values())
    shuffle = random.Random(0).shuffle
    while time.perf_counter() < until or len(ways["hpckit"].apart) < FEWEST:
        # In another order each time: who comes after whom matters to a cache.
        shuffle(order)
        for way in order:
            way.run(batch, device, small=numbers < SMALL)
    base = ways["clip_grad_norm_"]
    for sink in Way.sinks:
        sink.close()
    Way.sinks.clear()
    return {
        "tensors": tensors,
        "parameters": sum(each.numel() for each in model),
        "optimizer": kind,
        "turns": len(base.apart),
        "clip_and_step_us": statistics.median(base.apart) * 1e6,
        "clip_and_step": {name: ratio(way.apart, base.apart) for name, way in ways.items()},
        "whole_step": {name: ratio(way.whole, base.whole) for name, way in ways.items()},
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    def usual(times: list[float]) -> float:
        return statistics.fmean(sorted(times)[: max(1, len(times) * 9 // 10)])

    return usual(ours) / usual(theirs)


def table(found: list[dict[str, Any]]) -> None:
    print("ratio to clip_grad_norm_ + step, of clip-and-step alone | of the whole training step")
    names = ["hpckit", ".item()", "histograms", "zclip"]
    print(
        f"{'optimizer':9} {'tensors':>7} {'parameters':>11} {'us':>8}", *(f"{n:>15}" for n in names)
    )
    for row in found:
        cells = [
            f"{row['clip_and_step'][name]:6.2f} | {row['whole_step'][name]:5.3f}"
            if name in row["clip_and_step"]
            else ""
            for name in names
        ]
        about = f"{row['optimizer']:9} {row['tensors']:7} {row['parameters']:11,}"
        print(about, f"{row['clip_and_step_us']:8.0f}", *(f"{cell:>15}" for cell in cells))


def host_cost() -> float:
    """Microseconds a step of the detector alone, over a healthy run."""
    from hpckit.monitor import Detector

    torch.manual_seed(0)
    norms = torch.randn(50_000).mul(0.2).exp().tolist()
    losses = torch.randn(50_000).mul(0.05).add(2.0).tolist()
    detector = Detector(clip=1.0)
    start = time.perf_counter()
    for step, (norm, loss) in enumerate(zip(norms, losses, strict=True)):
        detector.observe(step=step, norm=norm, loss=loss, gated=False, factor=1.0)
    return (time.perf_counter() - start) / 50_000 * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    card = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("fused", "foreach", "rmsprop"):
            for tensors, numbers in SIZES:
                if numbers == 10**8 and kind != "fused":
                    continue
                print(f"{kind}: {tensors} tensors, {numbers:,} parameters", file=sys.stderr)
                found.append(measure(tensors, numbers, kind, asked.device, Path(folder)))
    detector_us = host_cost()
    if asked.json:
        print(json.dumps({"device": card, "detector_us": detector_us, "sizes": found}, indent=1))
        return
    print(f"{card}, {asked.threads} thread(s), torch {torch.__version__}")
    table(found)
    print(f"the detector alone: {detector_us:.1f} us a step")


if __name__ == "__main__":
    main()
