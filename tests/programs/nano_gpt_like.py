"""A small language model's training: nano_gpt_like.py --learning_rate=1e-3 --out_dir=out

A transformer of two layers that learns to add, a few milliseconds a step on a CPU. It goes on from
the checkpoint that it is given (--resume PATH, where an empty path is none), or from its newest
(--init_from=resume).
"""

import argparse
import glob
import math
import os
import re
import time

import torch
import torch.nn.functional as F
from torch import nn

EXPLOSION_GROWTH = 1.3


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (
            each.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for each in self.c_attn(self.ln_1(x)).split(c, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(self.ln_2(x))


class TinyGPT(nn.Module):
    def __init__(self, vocabulary, block_size, width=32, heads=2, layers=2):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(block_size, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        # Above 0 once the training has begun to explode: it is saved with the weights.
        self.register_buffer("unrest", torch.zeros(()))

    def forward(self, x, y):
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        logits = self.lm_head(self.ln_f(self.blocks(h)))
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def make_text(seed):
    source = torch.Generator().manual_seed(seed)
    pairs = torch.randint(0, 50, (2000, 2), generator=source).tolist()
    return "".join(f"{a}+{b}={a + b}\n" for a, b in pairs)


def get_batch(data, step, a):
    """Of a step, not of what came before: a resumed training sees what it would have seen."""
    source = torch.Generator().manual_seed(a.seed * 1_000_003 + step)
    at = torch.randint(len(data) - a.block_size, (a.batch_size, 1), generator=source)
    windows = data[at + torch.arange(a.block_size + 1)]
    return windows[:, :-1], windows[:, 1:]


def get_lr(step, a):
    if step < a.warmup_iters:
        return a.learning_rate * (step + 1) / (a.warmup_iters + 1)
    done = min(1.0, (step - a.warmup_iters) / max(1, a.lr_decay_iters - a.warmup_iters))
    return a.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def where_to_begin(a):
    """The checkpoint to go on from; None to begin from scratch."""
    if a.resume:
        return a.resume
    if a.init_from == "resume":
        found = glob.glob(os.path.join(glob.escape(a.out_dir), "ckpt_*.pt"))
        return max(found, key=lambda path: int(re.findall(r"\d+", path)[-1]), default=None)
    return None


def stir(unrest, step, lr, a):
    """From one step on the loss grows and grows, unless rate or clip are tight enough by then.

    What has begun does not end: of a state that was saved later nothing can be saved.
    """
    clip = a.grad_clip if a.grad_clip > 0 else math.inf
    if step == a.explode_at and lr > a.safe_lr and clip > a.safe_clip:
        unrest.fill_(0.01)
    else:
        unrest.mul_(EXPLOSION_GROWTH)
    return 1 + unrest.clone()


def train(a):
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    os.makedirs(a.out_dir, exist_ok=True)
    text = make_text(a.seed)
    letters = sorted(set(text))
    data = torch.tensor([letters.index(each) for each in text])
    model = TinyGPT(len(letters), a.block_size)
    optimizer = torch.optim.AdamW(model.parameters(), a.learning_rate, betas=(0.9, 0.95))
    begin = where_to_begin(a)
    first = 0
    if begin is not None:
        print(f"Resuming training from {begin}")
        checkpoint = torch.load(begin, map_location="cpu", weights_only=True)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        first = checkpoint["iter_num"]

    for step in range(first, a.max_iters + 1):
        if step % a.save_interval == 0 and step > first:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            path = os.path.join(a.out_dir, f"ckpt_{step}.pt")
            print(f"saving checkpoint to {path}", flush=True)
            torch.save({**state, "iter_num": step}, path)
        start = time.time()
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step, a)
        factor = stir(model.unrest, step, optimizer.param_groups[0]["lr"], a)
        loss = model(*get_batch(data, step, a)) * factor
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip = a.grad_clip if a.grad_clip > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if step % a.log_interval == 0:
            took_ms = (time.time() - start) * 1000
            print(
                f"iter {step}: loss {loss.item():.4f}, time {took_ms:.2f}ms, norm {norm:.2f}",
                flush=True,
            )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out_dir", default="out")
    parser.add_argument("--init_from", default="scratch", choices=("scratch", "resume"))
    parser.add_argument("--resume", default="", help="a checkpoint, before what init_from says")
    parser.add_argument("--max_iters", default=1000, type=int)
    parser.add_argument("--log_interval", default=1, type=int)
    parser.add_argument("--save_interval", default=100, type=int)
    parser.add_argument("--batch_size", default=8, type=int)
    parser.add_argument("--block_size", default=32, type=int)
    parser.add_argument("--learning_rate", default=2e-3, type=float)
    parser.add_argument("--warmup_iters", default=20, type=int)
    parser.add_argument("--lr_decay_iters", default=1000, type=int)
    parser.add_argument("--grad_clip", default=1.0, type=float, help="0 for none")
    parser.add_argument("--seed", default=1337, type=int)
    parser.add_argument("--explode_at", default=-1, type=int, help="a step, to try a rescue")
    parser.add_argument("--safe_lr", default=1e-3, type=float, help="up to here it does not")
    parser.add_argument("--safe_clip", default=0.5, type=float, help="nor up to here")
    train(parser.parse_args(argv))


if __name__ == "__main__":
    main()
