"""A small training that goes on where it stood, whatever ends it, and goes back when it explodes.

The data are made here: a spiral of three arms that a small network learns to tell apart. Run it by
itself, `python train.py`, and it is plain PyTorch; hpckit submit makes it a run.
"""

import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hpckit


def spiral(points: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on three noisy arms, and which arm each is on."""
    arm = torch.randint(0, 3, (points,), generator=generator)
    radius = torch.rand(points, generator=generator)
    noise = 0.15 * torch.randn(points, generator=generator)
    angle = 4 * radius + arm * 2 * torch.pi / 3 + noise
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), arm


def main() -> None:
    # What job.yaml says goes over what stands here.
    run = hpckit.attach(params={"epochs": 10, "lr": 2e-3, "seed": 0})
    torch.manual_seed(run.params["seed"])
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    generator = torch.Generator().manual_seed(run.params["seed"])
    inputs, targets = (part.to(device) for part in spiral(4096, generator))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3))
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.params["lr"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.params["epochs"])

    # All that must be there again when it goes on.
    run.register(model=model, optimizer=optimizer, schedule=schedule, clip=1.0)

    for epoch in run.epochs(run.params["epochs"]):
        began = time.perf_counter()
        for points, arms in run.batches(loader):
            loss = nn.functional.cross_entropy(model(points), arms)
            optimizer.zero_grad()
            loss.backward()
            run.step(optimizer, loss=loss)  # measured, clipped, held back if it is absurd
        schedule.step()
        with torch.no_grad():
            right = (model(inputs).argmax(dim=1) == targets).float().mean().item()
        run.best(right, mode="max", name="accuracy")
        took = time.perf_counter() - began
        print(
            f"epoch {epoch + 1:3d}/{run.params['epochs']}  loss {loss.item():.4f}  "
            f"accuracy {right:.3f}  {took:.2f} s"
        )


if __name__ == "__main__":
    main()
