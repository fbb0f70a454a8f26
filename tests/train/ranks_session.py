"""What each rank of the tests of a session over several processes runs.

    RANK=0 WORLD_SIZE=2 ... python -m tests.train.ranks_session ddp [settings as JSON]

Rank 0 prints what all of them found, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, DistributedSampler

import hpckit
from hpckit.train import keeper
from hpckit.train.healing import Stopped
from tests.train.inside import data, strike
from tests.train.ranks import ddp, flat, fsdp


def whole(thing: Any) -> Any:
    if hasattr(thing, "full_tensor"):
        thing = thing.full_tensor()
    return thing.double().sum().item() if isinstance(thing, torch.Tensor) else thing


def moments(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [
        whole(value)
        for group in optimizer.param_groups
        for parameter in group["params"]
        for value in optimizer.state[parameter].values()
    ]


def place_of(tensor: Any) -> int:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return int(local.data_ptr())


def train(way: str, asked: dict[str, Any]) -> dict[str, Any]:
    rank = distributed.get_rank()
    run = hpckit.attach()
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    model = ddp(inner) if way == "ddp" else fsdp(inner)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    run.register(model=model, optimizer=optimizer, schedule=schedule)
    # Each rank draws numbers of its own.
    torch.manual_seed(rank)
    dataset = data(20)
    loader = DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset, seed=3))
    if asked.get("strikes"):
        # A rule that only one rank's own numbers break.
        for about in asked["strikes"]:
            if about.pop("rank", rank) == rank:
                strike(run, about.pop("step"), **about)
    steps, states, places = [], {}, {}
    out: dict[str, Any] = {"steps": steps, "states": states, "places": places, "code": None}
    try:
        for x, y in run.batches(loader, epochs=asked.get("epochs", 5)):
            step = run.step_number
            steps.append(step)
            about = [flat(model), moments(optimizer), optimizer.param_groups[0]["lr"]]
            about += [float(torch.rand(())), float(x.sum())]
            states.setdefault(step, []).append(about)
            places.setdefault(step, []).append([place_of(each) for each in model.parameters()])
            if asked.get("term") == step and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            loss = (model(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            # A pipeline's last rank alone may have one.
            has_loss = asked.get("loss_on", rank) == rank
            run.step(optimizer, loss=loss if has_loss else None)
            schedule.step()
            run._kept.saver.wait()
    except Stopped as stop:
        out |= {"code": stop.code, "reason": stop.reason}
    except SystemExit as end:
        out["code"] = end.code
    detector = run.stepper.lookout.detectors["main"]
    out["usual"] = detector.loss.usual.level if detector.loss.usual.ready else None
    out["rate"] = run.stepper.watched["main"].rate
    out["end"] = [flat(model), moments(optimizer)]
    run.close()
    return out


def main() -> None:
    torch.set_num_threads(1)
    way, asked = sys.argv[1], json.loads(sys.argv[2])
    keeper.MEMORY_EVERY = 10
    if asked.get("no_memory"):
        keeper.how_many_fit = lambda *args: 0
    distributed.init_process_group("gloo")
    found = train(way, asked)
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, found)
    if distributed.get_rank() == 0:
        print(json.dumps(gathered), flush=True)
    distributed.barrier()
    # gloo's threads may end in std::terminate when the interpreter takes them down.
    os._exit(0)


if __name__ == "__main__":
    main()
