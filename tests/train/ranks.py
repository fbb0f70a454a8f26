"""What each rank of the distributed tests runs; prints what it found as JSON, rank by rank."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hpckit.train import Clip, Stepper, Trainer


def data(step: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(6, 4, generator=generator)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def flat(model: nn.Module) -> list[float]:
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return torch.cat([p.detach().reshape(-1) for p in whole]).tolist()


def train(model: nn.Module, steps: int, poison: int | None = None) -> dict[str, Any]:
    """A training whose clip depends on what was read: a difference of readings shows."""
    rank = distributed.get_rank()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    stepper = Stepper(model=model, optimizers=optimizer, clip=Clip(percentile=40), lag=3)
    said = []
    for step in range(steps):
        optimizer.zero_grad()
        batch = data(step, rank)
        if step == poison and rank == 1:
            batch = batch * math.nan
        loss = model(batch).square().mean()
        loss.backward()
        stepper.step(loss=loss)
        said += [str(each) for each in stepper.end()]
    said += [str(each) for each in stepper.finish()]
    late = stepper.latest
    details = late.details["main"]
    return {
        "weights": flat(model),
        # Times are a rank's own, and so is the stretch of weights that it samples of its shard.
        "reading": {k: v for k, v in late.values().items() if k.startswith(("grad", "train"))},
        "each": dict(zip(details[0], details[1].land(), strict=True)),
        "said": said,
    }


def ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def fsdp(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    fully_shard(model, mesh=mesh)
    return model


class Alone(Trainer):
    """Of two ranks only the first one's validation becomes better."""

    progress = False
    epochs = 4

    def build(self) -> None:
        self.model = self.prepare(small())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.plateau = ReduceLROnPlateau(self.optimizer, factor=0.5, patience=0)
        self.loader = self.make_loader(data(0, 0), batch_size=3)  # type: ignore[arg-type]
        self.left = 8.0

    def loss(self, batch: Any) -> Any:
        return self.model(batch).square().mean()

    def validate(self) -> dict[str, float]:
        rank = distributed.get_rank()
        self.left /= 2
        # Better and better here, as much worse there; and one number is the first rank's alone.
        return {"loss": self.left if rank == 0 else 16 - self.left} | ({} if rank else {"mel": 3.0})


def validated() -> dict[str, Any]:
    trainer = Alone()
    seen: list[dict[str, Any]] = []
    trainer.session.log = lambda **values: seen.append(values)
    trainer.run()
    return {"seen": seen, "lr": trainer.optimizer.param_groups[0]["lr"]}


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {"ddp": ddp, "fsdp": fsdp}


def main() -> None:
    way, poison = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    if way == "validation":
        found = validated()
    else:
        found = train(WAYS[way](small()), 60, poison if poison >= 0 else None)
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, found)
    if distributed.get_rank() == 0:
        print(json.dumps(gathered), flush=True)
    distributed.barrier()
    # gloo's threads may end in std::terminate when the interpreter takes them down.
    os._exit(0)


if __name__ == "__main__":
    main()
