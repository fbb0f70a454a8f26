"""A small training that really explodes once: two optimizers, loss components, a validation."""

import math
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hpckit

# From here on the last stage's output grows: until the run has gone back, or always, or never.
FROM, STEPS, EPOCHS = 380, 100, 6


class Stage(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.output_proj(torch.tanh(self.mix(x)))


class Agent(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, width)
        self.cascade_stages = nn.ModuleList(Stage(width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder(x)
        for stage in self.cascade_stages:
            x = stage(x)
        return x


def main() -> None:
    run = hpckit.attach(params={"lr": 2e-3, "explodes": "once"})
    torch.manual_seed(0)
    torch.set_num_threads(1)
    inputs = torch.randn(STEPS * 16, 16)
    data = TensorDataset(inputs, torch.sin(2 * inputs.roll(1, dims=1)) * inputs)
    agent, critic = Agent(), nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 1))
    generator = torch.optim.AdamW(agent.parameters(), lr=run.params["lr"])
    discriminator = torch.optim.AdamW(critic.parameters(), lr=2 * run.params["lr"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(generator, EPOCHS * STEPS)
    run.register(
        agent=agent,
        critic=critic,
        generator=generator,
        discriminator=discriminator,
        schedule=schedule,
        clip={"generator": 3.0, "discriminator": 6.0},
    )
    loader = DataLoader(data, batch_size=16, shuffle=True)
    last, went_back = -1, False
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            step = run.step_number
            went_back = went_back or step <= last
            last = step
            explodes = {"once": not went_back, "always": True, "never": False}
            if step >= FROM and explodes[run.params["explodes"]]:
                with torch.no_grad():
                    agent.cascade_stages[2].output_proj.weight *= 1.5
            out = agent(x)
            real, fake = critic(y), critic(out.detach())
            loss_d = (real - 1).square().mean() + fake.square().mean()
            discriminator.zero_grad()
            loss_d.backward()
            run.step(discriminator, loss=loss_d)
            parts = {
                "reconstruction": (out - y).square().mean(),
                "spectral": (torch.fft.rfft(out - y).abs() / 4).mean(),
                "balance": (out.std() - y.std()).square(),
                "adversarial": (critic(out) - 1).square().mean(),
            }
            loss = sum(parts.values()) - 0.1 * parts["adversarial"]
            generator.zero_grad()
            loss.backward()
            run.step(generator, loss=loss)
            schedule.step()
            run.log(**parts)
        with torch.no_grad():
            error = (agent(inputs[:256]) - data.tensors[1][:256]).square().mean().item()
        run.best(error, name="error")
        print(f"epoch done, error {error:.4f}", "" if math.isfinite(error) else "!", flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
