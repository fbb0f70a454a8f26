"""A vocoder's training as GAN vocoders are trained in public: hifi_like.py --checkpoint_path cp

Small enough for a few milliseconds a step on a CPU. It knows nothing of who watches it: it finds
its newest checkpoint by itself, and writes files in place that are half when it is killed.
"""

import argparse
import glob
import json
import math
import os
import time

import torch
import torch.nn.functional as F
from torch import nn

EXPLOSION_GROWTH = 1.3


class Generator(nn.Module):
    def __init__(self, h):
        super().__init__()
        c = h.channels
        self.pre = nn.Conv1d(h.n_fft // 2 + 1, c, 5, padding=2)
        self.up1 = nn.ConvTranspose1d(c, c // 2, 8, 4, padding=2)
        self.up2 = nn.ConvTranspose1d(c // 2, c // 4, 8, 4, padding=2)
        self.post = nn.Conv1d(c // 4, 1, 7, padding=3)
        # Above 0 once the training has begun to explode: it is saved with the weights.
        self.register_buffer("unrest", torch.zeros(()))

    def forward(self, x):
        x = F.leaky_relu(self.pre(x), 0.1)
        x = F.leaky_relu(self.up1(x), 0.1)
        x = F.leaky_relu(self.up2(x), 0.1)
        return torch.tanh(self.post(x))


class Discriminator(nn.Module):
    def __init__(self, h):
        super().__init__()
        c = h.channels // 2
        self.convs = nn.ModuleList(
            [
                nn.Conv1d(1, c, 15, 4, padding=7),
                nn.Conv1d(c, c, 15, 4, padding=7),
                nn.Conv1d(c, c, 5, padding=2),
            ]
        )
        self.post = nn.Conv1d(c, 1, 3, padding=1)

    def forward(self, x):
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return self.post(x), features


def log_spectrum(wave, h):
    window = torch.hann_window(h.n_fft)
    padded = F.pad(wave.squeeze(1), ((h.n_fft - h.hop_size) // 2,) * 2, mode="reflect")
    found = torch.stft(
        padded, h.n_fft, h.hop_size, window=window, center=False, return_complex=True
    )
    return torch.log(found.abs().clamp(min=1e-2))


def make_clips(h):
    """Voices that nobody has: a few harmonics each, with some breath."""
    source = torch.Generator().manual_seed(h.seed)
    t = torch.arange(h.segment_size) / 8000.0
    pitch = 80 + 320 * torch.rand(h.clips, 1, generator=source)
    wave = torch.zeros(h.clips, h.segment_size)
    for harmonic in range(1, 6):
        phase = 2 * math.pi * torch.rand(h.clips, 1, generator=source)
        wave += torch.sin(2 * math.pi * harmonic * pitch * t + phase) / harmonic
    wave += 0.05 * torch.randn(wave.shape, generator=source)
    return (0.3 * wave).clamp(-1, 1).unsqueeze(1)


def scan_checkpoint(cp_dir, prefix):
    found = sorted(glob.glob(os.path.join(cp_dir, prefix + "????????")))
    return found[-1] if found else None


def load_checkpoint(path):
    print(f"Loading '{path}'")
    return torch.load(path, map_location="cpu", weights_only=True)


def set_learning_rate(optimizer, base, decay, epoch):
    """The optimizer's state brings back the rate of when it was saved; what was asked for wins."""
    for group in optimizer.param_groups:
        group["lr"] = base * decay ** max(epoch, 0)


def discriminator_loss(real, fake):
    return torch.mean((1 - real) ** 2) + torch.mean(fake**2)


def feature_loss(real, fake):
    return 2 * sum(F.l1_loss(b, a) for a, b in zip(real, fake, strict=True))


def stir(unrest, steps, lr, a):
    """From one step on the loss grows and grows, unless rate or clip are tight enough by then.

    What has begun does not end: of a state that was saved later nothing can be saved.
    """
    clip = a.clip_grad_norm if a.clip_grad_norm > 0 else math.inf
    if steps == a.explode_at and lr > a.safe_lr and clip > a.safe_clip:
        unrest.fill_(0.01)
    else:
        unrest.mul_(EXPLOSION_GROWTH)
    return 1 + unrest.clone()


def train(a, h):
    torch.set_num_threads(1)
    # oneDNN prepares longer for convolutions as small as these than they take.
    torch.backends.mkldnn.set_flags(False)
    torch.manual_seed(h.seed)
    generator, discriminator = Generator(h), Discriminator(h)
    os.makedirs(a.checkpoint_path, exist_ok=True)
    cp_g = scan_checkpoint(a.checkpoint_path, "g_")
    cp_do = scan_checkpoint(a.checkpoint_path, "do_")
    steps, last_epoch, state_do = 0, -1, None
    if cp_g is not None and cp_do is not None:
        state_do = load_checkpoint(cp_do)
        generator.load_state_dict(load_checkpoint(cp_g)["generator"])
        discriminator.load_state_dict(state_do["discriminator"])
        steps, last_epoch = state_do["steps"] + 1, state_do["epoch"]

    betas = (h.adam_b1, h.adam_b2)
    optim_g = torch.optim.AdamW(generator.parameters(), h.learning_rate, betas=betas)
    optim_d = torch.optim.AdamW(discriminator.parameters(), h.learning_rate, betas=betas)
    if state_do is not None:
        optim_g.load_state_dict(state_do["optim_g"])
        optim_d.load_state_dict(state_do["optim_d"])
    for optimizer in (optim_g, optim_d):
        set_learning_rate(optimizer, h.learning_rate, h.lr_decay, last_epoch)
    scheduler_g = torch.optim.lr_scheduler.ExponentialLR(optim_g, h.lr_decay)
    scheduler_d = torch.optim.lr_scheduler.ExponentialLR(optim_d, h.lr_decay)

    clips = make_clips(h)
    for epoch in range(max(0, last_epoch), a.training_epochs):
        print(f"Epoch: {epoch + 1}", flush=True)
        order = torch.randperm(
            len(clips), generator=torch.Generator().manual_seed(h.seed + 1 + epoch)
        )
        for batch in order.split(h.batch_size):
            start = time.time()
            y = clips[batch]
            spectrum = log_spectrum(y, h)
            y_hat = generator(spectrum)

            optim_d.zero_grad()
            loss_d = discriminator_loss(discriminator(y)[0], discriminator(y_hat.detach())[0])
            loss_d.backward()
            optim_d.step()

            optim_g.zero_grad()
            error = F.l1_loss(spectrum, log_spectrum(y_hat, h))
            score, fake = discriminator(y_hat)
            with torch.no_grad():
                _, real = discriminator(y)
            loss_g = torch.mean((1 - score) ** 2) + feature_loss(real, fake) + 45 * error
            loss_g = loss_g * stir(generator.unrest, steps, optim_g.param_groups[0]["lr"], a)
            loss_g.backward()
            if a.clip_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(generator.parameters(), a.clip_grad_norm)
            optim_g.step()

            if steps % a.stdout_interval == 0:
                print(
                    f"Steps : {steps:d}, Gen Loss Total : {loss_g.item():4.3f}, "
                    f"Mel-Spec. Error : {error.item():4.3f}, s/b : {time.time() - start:4.3f}",
                    flush=True,
                )
            if steps % a.checkpoint_interval == 0 and steps != 0:
                here = os.path.join(a.checkpoint_path, f"{{}}_{steps:08d}")
                torch.save({"generator": generator.state_dict()}, here.format("g"))
                state = {
                    "discriminator": discriminator.state_dict(),
                    "steps": steps,
                    "epoch": epoch,
                }
                state |= {"optim_g": optim_g.state_dict(), "optim_d": optim_d.state_dict()}
                torch.save(state, here.format("do"))
            steps += 1
        scheduler_g.step()
        scheduler_d.step()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="hifi_like.json")
    parser.add_argument("--checkpoint_path", default="cp")
    parser.add_argument("--training_epochs", default=100, type=int)
    parser.add_argument("--stdout_interval", default=5, type=int)
    parser.add_argument("--checkpoint_interval", default=50, type=int)
    parser.add_argument("--learning_rate", type=float, help="instead of the config's")
    parser.add_argument("--clip_grad_norm", default=1000.0, type=float, help="0 for none")
    parser.add_argument("--seed", type=int, help="instead of the config's")
    parser.add_argument("--explode_at", default=-1, type=int, help="a step, to try a rescue")
    parser.add_argument("--safe_lr", default=1e-3, type=float, help="up to here it does not")
    parser.add_argument("--safe_clip", default=250.0, type=float, help="nor up to here")
    a = parser.parse_args(argv)
    with open(a.config) as stream:
        h = argparse.Namespace(**json.load(stream))
    h.learning_rate = h.learning_rate if a.learning_rate is None else a.learning_rate
    h.seed = h.seed if a.seed is None else a.seed
    train(a, h)


if __name__ == "__main__":
    main()
