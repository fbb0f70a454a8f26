"""A small training that behaves well on a cluster: it saves, and goes on where it stood.

The data are made here: a spiral of three arms that a small network learns to tell apart.
Slurm ends a job at its time limit; hpckit sends SIGTERM shortly before, so that the training can
save. The next attempt finds the checkpoint in the working folder, which all attempts share.
"""

import argparse
import os
import signal
import sys
import time

import torch
from torch import nn

CHECKPOINT = "checkpoint.pt"


def spiral(points: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on three noisy arms, and which arm each is on."""
    arm = torch.randint(0, 3, (points,), generator=generator)
    radius = torch.rand(points, generator=generator)
    noise = 0.15 * torch.randn(points, generator=generator)
    angle = 4 * radius + arm * 2 * torch.pi / 3 + noise
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), arm


def save(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Write beside, then replace: a machine that dies here leaves the old checkpoint whole."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    torch.save(state, CHECKPOINT + ".new")
    os.replace(CHECKPOINT + ".new", CHECKPOINT)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    told_to_end = []
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.append(True))

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(args.seed)
    inputs, targets = (part.to(device) for part in spiral(4096, generator))
    model = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3))
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    start = 0
    if os.path.exists(CHECKPOINT):
        state = torch.load(CHECKPOINT, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"]
        print(f"going on after epoch {start}")

    for epoch in range(start, args.epochs):
        began = time.perf_counter()
        for batch in torch.randperm(len(inputs), generator=generator).split(64):
            batch = batch.to(device)
            loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        right = (model(inputs).argmax(dim=1) == targets).float().mean().item()
        took = time.perf_counter() - began
        print(
            f"epoch {epoch + 1:3d}/{args.epochs}  loss {loss.item():.4f}  "
            f"gradient norm {norm.item():.3f}  accuracy {right:.3f}  {took:.2f} s"
        )
        save(model, optimizer, epoch + 1)
        if told_to_end:
            print("told to end: saved")
            sys.exit(0)


if __name__ == "__main__":
    main()
