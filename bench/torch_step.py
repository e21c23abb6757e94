#!/usr/bin/env python3
"""The models and layers of `kinora bench model`, written plainly in PyTorch: the peer to hold against.

    bench/torch_step.py --model demo --train --threads 2 --min-time 5

prints the median seconds of a run and its quartiles; with --json FILE it writes a record that
`kinora bench compare` reads. Names are those of `kinora bench model --list`. Made for Debian 12's
python3-torch (1.13), which has no fused attention: scores are computed, softmaxed and multiplied.
"""
import argparse
import json
import math
import os
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 64


def attend(q, k, v, bias=None, scale=None):
    """q [..., N, D], k and v [..., M, D]; bias is added to the scores."""
    scores = torch.matmul(q, k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    return torch.matmul(torch.softmax(scores, -1), v)


def split_heads(x, heads):
    """[B, N, C] to [B, H, N, D]"""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def join_heads(x):
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


# ---- T5 v1.1 encoder


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


def relative_buckets(length, buckets=32, most=128):
    """[L, L]: the bucket of key - query; half for either side, the far ones by logarithm."""
    place = torch.arange(length)
    distance = place[None] - place[:, None]
    half, near = buckets // 2, buckets // 4
    far = distance.abs().clamp(min=1)
    log = near + (torch.log(far / near) / math.log(most / near) * (half - near)).long()
    bucket = torch.where(distance.abs() < near, distance.abs(), log.clamp(max=half - 1))
    return bucket + half * (distance > 0)


class T5Layer(nn.Module):
    def __init__(self, width, heads, size, inner):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_inner = RMSNorm(width), RMSNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, heads * size, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * size, width, bias=False)
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x, bias):
        h = self.norm_attention(x)
        q, k, v = (split_heads(project(h), self.heads) for project in (self.q, self.k, self.v))
        x = x + self.o(join_heads(attend(q, k, v, bias, scale=1.0)))
        h = self.norm_inner(x)
        return x + self.down(F.gelu(self.gate(h), approximate="tanh") * self.up(h))


class T5Encoder(nn.Module):
    def __init__(self, width, heads, size, inner, layers):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.relative = nn.Embedding(32, heads)
        self.layers = nn.ModuleList(T5Layer(width, heads, size, inner) for _ in range(layers))
        self.norm = RMSNorm(width)

    def forward(self, ids, mask):
        bias = self.relative(relative_buckets(ids.shape[1])).permute(2, 0, 1)[None]
        bias = bias.masked_fill(~mask[:, None, None, :], -1e9)
        x = self.tokens(ids)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)


# ---- STDiT (Open-Sora 1.0)


def sinusoid(position, width):
    angle = position[:, None] * 10000.0 ** (-torch.arange(width // 2) / (width // 2))
    return torch.cat([angle.sin(), angle.cos()], 1)


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        return self.proj(join_heads(attend(q, k, v)))


class CrossAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_linear, self.kv_linear = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, y, bias):
        q = split_heads(self.q_linear(x), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.kv_linear(y).chunk(2, -1))
        return self.proj(join_heads(attend(q, k, v, bias)))


def feed_forward(inside, inner, outside):
    return nn.Sequential(nn.Linear(inside, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, outside))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn, self.attn_temp = SelfAttention(width, heads), SelfAttention(width, heads)
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = feed_forward(width, 4 * width, width)
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(self, x, y, bias, t6, frames, position):
        b, n, c = x.shape
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (self.scale_shift_table + t6).chunk(6, 1)
        h = F.layer_norm(x, (c,), eps=1e-6) * (1 + scale) + shift
        x = x + gate * self.attn(h.view(b * frames, -1, c)).view(b, n, c)
        h = x.view(b, frames, -1, c).transpose(1, 2).reshape(-1, frames, c)
        if position is not None:
            h = h + position
        h = self.attn_temp(h).view(b, -1, frames, c).transpose(1, 2).reshape(b, n, c)
        x = x + gate * h
        x = x + self.cross_attn(x, y, bias)
        h = F.layer_norm(x, (c,), eps=1e-6) * (1 + scale_mlp) + shift_mlp
        return x + gate_mlp * self.mlp(h)


class STDiT(nn.Module):
    def __init__(self, width, depth, heads, frames, side, caption_width, text):
        super().__init__()
        self.frames, self.grid, self.width = frames, side // 2, width
        self.x_embedder = nn.Conv3d(4, width, (1, 2, 2), (1, 2, 2))
        self.t_embedder = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedding = nn.Parameter(torch.randn(text, caption_width) / caption_width**0.5)
        self.y_embedder = feed_forward(caption_width, width, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.final_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.final = nn.Linear(width, 2 * 2 * 8)
        place = torch.arange(self.grid).float()
        column, row = place.repeat(self.grid), place.repeat_interleave(self.grid)
        space = torch.cat([sinusoid(column, width // 2), sinusoid(row, width // 2)], 1)
        self.register_buffer("space", space[None, None])
        self.register_buffer("time", sinusoid(torch.arange(frames).float(), width)[None])
        self.register_buffer("wave", 10000.0 ** (-torch.arange(128) / 128))

    def forward(self, x, t, y, mask, drop=None):
        """x [B, 4, T, Y, X]; t [B]; y [B, L, C]; mask [B, L]: real tokens; drop [B]: null caption"""
        b, g = x.shape[0], self.grid
        x = self.x_embedder(x).flatten(2).transpose(1, 2)
        x = (x.view(b, self.frames, g * g, self.width) + self.space).view(b, -1, self.width)
        angle = t.float()[:, None] * self.wave
        t = self.t_embedder(torch.cat([angle.cos(), angle.sin()], 1))
        t6 = self.t_block(t).view(b, 6, self.width)
        if drop is not None:
            y = torch.where(drop[:, None, None], self.y_embedding, y)
        y = self.y_embedder(y)
        bias = torch.zeros(mask.shape).masked_fill(~mask, -1e9)[:, None, None, :]
        for i, block in enumerate(self.blocks):
            x = block(x, y, bias, t6, self.frames, self.time if i == 0 else None)
        shift, scale = (self.final_table + t[:, None]).chunk(2, 1)
        x = self.final(F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale) + shift)
        x = x.view(b, self.frames, g, g, 2, 2, 8).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(b, 8, self.frames, 2 * g, 2 * g)


# ---- IDDPM: the loss with a learned variance


class Schedule:
    def __init__(self, steps=1000):
        beta = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)
        alpha = torch.cumprod(1 - beta, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha[:-1]])
        variance = beta * (1 - before) / (1 - alpha)
        rows = {
            "signal": alpha.sqrt(),
            "noise": (1 - alpha).sqrt(),
            "x0_of_xt": (1 / alpha).sqrt(),
            "x0_of_noise": (1 / alpha - 1).sqrt(),
            "mean_of_x0": beta * before.sqrt() / (1 - alpha),
            "mean_of_xt": (1 - before) * (1 - beta).sqrt() / (1 - alpha),
            "log_high": beta.log(),
            "log_low": torch.cat([variance[1:2], variance[1:]]).log(),
        }
        self.rows = {name: row.float() for name, row in rows.items()}

    def __call__(self, name, t):
        return self.rows[name][t].view(-1, 1, 1, 1, 1)


def gaussian_cdf(x):
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def bin_log_likelihood(x, mean, log_sigma):
    """Of a Gaussian cut to bins of 2/255, whose outermost reach to infinity."""
    inverse, centred = torch.exp(-log_sigma), x - mean
    upper = gaussian_cdf(inverse * (centred + 1 / 255))
    lower = gaussian_cdf(inverse * (centred - 1 / 255))
    inner = torch.where(x > 0.999, 1 - lower, upper - lower)
    return torch.where(x < -0.999, upper, inner).clamp(min=1e-12).log()


def iddpm_loss(schedule, model, x0, t, noise, *rest):
    """Mean over the batch of the squared error of the noise plus the bound of the variance, in bits."""
    xt = schedule("signal", t) * x0 + schedule("noise", t) * noise
    predicted, v = model(xt, t, *rest).chunk(2, 1)
    error = (noise - predicted).square().mean((1, 2, 3, 4))
    part = (v + 1) / 2
    low = schedule("log_low", t)
    log_variance = part * schedule("log_high", t) + (1 - part) * low
    x0_guess = schedule("x0_of_xt", t) * xt - schedule("x0_of_noise", t) * predicted.detach()
    guess = schedule("mean_of_x0", t) * x0_guess + schedule("mean_of_xt", t) * xt
    mean = schedule("mean_of_x0", t) * x0 + schedule("mean_of_xt", t) * xt
    divergence = 0.5 * (
        log_variance - low - 1 + torch.exp(low - log_variance) + (mean - guess).square() * torch.exp(-log_variance)
    )
    likelihood = -bin_log_likelihood(x0, guess, 0.5 * log_variance)
    bound = torch.where(t.view(-1, 1, 1, 1, 1) == 0, likelihood, divergence).mean((1, 2, 3, 4))
    return (error + bound / math.log(2)).mean()


class TrainingStep:
    """Forward, backward, clipping, AdamW, average of the weights: one call is one step."""

    def __init__(self, text, denoiser, batch, frames, side, length, ema=0.999):
        self.text, self.denoiser, self.decay = text, denoiser, ema
        self.schedule = Schedule()
        self.parameters = [*text.parameters(), *denoiser.parameters()]
        # foreach: one call for all tensors, several times faster than a loop over them
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, betas=(0.9, 0.99), weight_decay=0, foreach=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.x0 = torch.randn(batch, 4, frames, side, side)
        self.ids = torch.randint(0, VOCABULARY, (batch, length))
        self.mask = torch.ones(batch, length, dtype=torch.bool)

    def __call__(self):
        batch = len(self.x0)
        t, drop = torch.randint(0, 1000, (batch,)), torch.rand(batch) < 0.1
        features = self.text(self.ids, self.mask)
        loss = iddpm_loss(
            self.schedule, self.denoiser, self.x0, t, torch.randn_like(self.x0), features, self.mask, drop
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(self.average, self.decay)
            torch._foreach_add_(self.average, self.parameters, alpha=1 - self.decay)


# ---- the decoder of Stable Diffusion's VAE


class ResidualBlock(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, inside, eps=1e-6), nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(32, outside, eps=1e-6), nn.Conv2d(outside, outside, 3, padding=1)
        self.shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class ImageAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        h = self.norm(x).flatten(2).transpose(1, 2)
        h = self.o(attend(self.q(h), self.k(h), self.v(h)))
        return x + h.transpose(1, 2).reshape(x.shape)


def vae_decoder():
    layers = [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 512, 3, padding=1)]
    layers += [ResidualBlock(512, 512), ImageAttention(512), ResidualBlock(512, 512)]
    inside = 512
    for level, outside in enumerate((512, 512, 256, 128)):
        for _ in range(3):
            layers.append(ResidualBlock(inside, outside))
            inside = outside
        if level < 3:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(outside, outside, 3, padding=1)]
    layers += [nn.GroupNorm(32, 128, eps=1e-6), nn.SiLU(), nn.Conv2d(128, 3, 3, padding=1)]
    return nn.Sequential(*layers)


# ---- what can be timed: each returns a function of no arguments


def call_of(function, inputs, parameters, train):
    """train: with the gradients of inputs and parameters for a given gradient of the result."""
    if not train:

        def forward():
            with torch.no_grad():
                function(*inputs)

        return forward
    leaves = [x.requires_grad_() for x in inputs if x.is_floating_point()] + list(parameters)
    with torch.no_grad():
        cotangent = torch.randn_like(function(*inputs))

    def forward_backward():
        for leaf in leaves:
            leaf.grad = None
        function(*inputs).backward(cotangent)

    return forward_backward


def module_call(module, shape, train):
    return call_of(module, [torch.randn(*shape)], module.parameters(), train)


def conv2d(channels, side, train, options):
    module, x = nn.Conv2d(channels, channels, 3, padding=1), torch.randn(1, channels, side, side)
    if options.channels_last:
        module, x = module.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    return call_of(module, [x], module.parameters(), train)


def attention(samples, tokens, train):
    inputs = [torch.randn(samples, 16, tokens, 72) for _ in range(3)]
    return call_of(attend, inputs, [], train)


def attend_over_frames(qkv):
    """qkv [B, T, S, 3, H, D] -> tokens [B, T, S, H D]."""
    b, t, s, _, h, d = qkv.shape
    q, k, v = (x.permute(0, 2, 3, 1, 4).reshape(b * s, h, t, d) for x in qkv.unbind(3))
    return attend(q, k, v).reshape(b, s, h, t, d).permute(0, 3, 1, 2, 4).reshape(b, t, s, h * d)


def stdit_block(train):
    model = STDiT(1152, 1, 16, frames=16, side=32, caption_width=4096, text=120)
    x, y = torch.randn(1, 4, 16, 32, 32), torch.randn(1, 120, 4096)
    t, mask = torch.tensor([500]), torch.ones(1, 120, dtype=torch.bool)
    return call_of(lambda: model(x, t, y, mask), [], model.parameters(), train)


def demo(train, options):
    size = {"frames": options.frames, "side": options.latent}
    text = T5Encoder(64, 4, 16, 128, 2)
    denoiser = STDiT(options.hidden, options.depth, options.heads, caption_width=64, text=options.text, **size)
    step = TrainingStep(text, denoiser, options.batch, length=options.text, **size)
    if train:
        return step
    t = torch.randint(0, 1000, (options.batch,))
    return call_of(lambda: denoiser(step.x0, t, text(step.ids, step.mask), step.mask), [], [], False)


def t5_block():
    model = T5Encoder(4096, 64, 64, 10240, 1)
    ids, mask = torch.randint(0, VOCABULARY, (1, 300)), torch.ones(1, 300, dtype=torch.bool)
    return call_of(model, [ids, mask], [], False)


def adamw():
    parameters = [torch.randn(5_250_000, requires_grad=True) for _ in range(4)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    return torch.optim.AdamW(parameters, lr=1e-5).step


def linear(rows, inside, outside):
    return lambda train, o: module_call(nn.Linear(inside, outside), (rows, inside), train)


def conv3d(channels, side):
    shape = (1, channels, 9, side, side)
    return lambda train, o: module_call(nn.Conv3d(channels, channels, 3, padding=1), shape, train)


FORWARD_ONLY = ("sd-vae", "t5-block", "adamw")
MODELS = {
    "demo": demo,
    "STDiT-XL/2-block": lambda train, o: stdit_block(train),
    "sd-vae": lambda train, o: module_call(vae_decoder(), (1, 4, 32, 32), False),
    "t5-block": lambda train, o: t5_block(),
    "attention-256": lambda train, o: attention(1, 256, train),
    "attention-1024": lambda train, o: attention(1, 1024, train),
    "attention-4096": lambda train, o: attention(1, 4096, train),
    "attention-spatial": lambda train, o: attention(16, 256, train),
    "attention-temporal": lambda train, o: attention(256, 16, train),
    "attention-frames": lambda train, o: call_of(
        attend_over_frames, [torch.randn(1, 16, 256, 3, 16, 72)], [], train),
    "conv2d-128-64": lambda train, o: conv2d(128, 64, train, o),
    "conv2d-128-256": lambda train, o: conv2d(128, 256, train, o),
    "conv2d-256-128": lambda train, o: conv2d(256, 128, train, o),
    "conv2d-512-64": lambda train, o: conv2d(512, 64, train, o),
    "conv3d-128-64": conv3d(128, 64),
    "conv3d-256-32": conv3d(256, 32),
    "linear-qkv": linear(4096, 1152, 3456),
    "linear-proj": linear(4096, 1152, 1152),
    "linear-fc1": linear(4096, 1152, 4608),
    "linear-fc2": linear(4096, 4608, 1152),
    "linear-t5": linear(300, 4096, 10240),
    "layer-norm": lambda train, o: module_call(nn.LayerNorm(1152), (4096, 1152), train),
    "group-norm-silu": lambda train, o: module_call(
        nn.Sequential(nn.GroupNorm(32, 128, eps=1e-6), nn.SiLU()), (1, 128, 256, 256), train
    ),
    "adamw": lambda train, o: adamw(),
}


# ---- timing, as bench/timing.c does it


def sample(call, min_time):
    """Seconds of one run, several times, and how many runs a sample had."""
    spent, best = 0.0, math.inf
    while spent == 0 or spent < 0.1 * min_time:
        start = time.perf_counter()
        call()
        one = time.perf_counter() - start
        spent, best = spent + one, min(best, one)
    runs = 1 + int(max(5e-4, min_time / 200) / best)
    samples, spent = [], 0.0
    while len(samples) < 400 and (len(samples) < 3 or spent < min_time):
        start = time.perf_counter()
        for _ in range(runs):
            call()
        taken = time.perf_counter() - start
        samples.append(taken / runs)
        spent += taken
    return samples, runs


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", default="demo", help="one of: " + " ".join(MODELS))
    parser.add_argument("--train", action="store_true", help="with gradients; of the demo the whole step")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--min-time", type=float, default=2.0, help="seconds to spend at least")
    parser.add_argument("--channels-last", action="store_true", help="conv2d: in PyTorch's other layout")
    parser.add_argument("--json", help="write a record for kinora bench compare")
    sizes = {"batch": 16, "frames": 8, "latent": 8, "hidden": 128, "depth": 4, "heads": 4, "text": 10}
    for name, value in sizes.items():
        parser.add_argument("--" + name, type=int, default=value, help=f"of the demo; default {value}")
    options = parser.parse_args()
    if options.model not in MODELS:
        parser.error(f'no model "{options.model}"')
    if options.train and options.model in FORWARD_ONLY:
        parser.error(f"{options.model} is timed forward only")
    return options


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    samples, runs = sample(MODELS[options.model](options.train, options), options.min_time)
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    name = f"{options.model}, {'train' if options.train else 'forward'}"
    print(f"{name}: {median:.6g} s, quartiles {low:.6g} and {high:.6g}, {len(samples)} samples, "
          f"{options.threads} threads, torch {torch.__version__}")
    if options.json:
        case = {"name": name, "dtype": "f32", "median": median, "low": low, "high": high}
        case |= {"runs_per_sample": runs, "samples": samples}
        record = {"format": "kinora-bench-1", "kind": "model", "version": "torch " + torch.__version__}
        record |= {"device": "cpu", "description": "PyTorch", "threads": options.threads, "cases": [case]}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
