#!/usr/bin/env python3
"""Times single ops at the models' sizes on a GPU, in turn with PyTorch if it is there.

    bench/gpu_shapes.py --kinora kinora --device cuda0 --output DIR [--row TEXT]... [--rounds N]

Each row is written as a case (config.json and inputs.safetensors, docs/add-a-backend.md) that `kinora
bench ops --case` takes. In each round Kinora runs, then PyTorch, both timed by the wall clock with a
wait behind every run; the medians of the rounds are compared. DIR gets shapes.md and shapes.json. With
--small the sizes are tiny, to try the machinery on any device; without PyTorch its columns are empty.
"""
import argparse
import json
import math
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

try:
    import torch
    from torch.nn import functional as F
except ImportError:
    torch = None


# ---- rows: an op of Kinora with its inputs, and the same in PyTorch


COUNTED = "0, 1, 2, .."  # a fill


class Row:
    """inputs: (dtype, dims[, fill]) or None where absent; fill: a number for all elements, or a list.
    variables: inputs that the op writes. peer(tensors) makes what PyTorch runs from tensors of the
    same inputs. flops and bytes are the least that the op needs."""

    def __init__(self, name, op, attributes, inputs, peer, flops=0, nbytes=0, variables=()):
        self.name, self.op, self.attributes, self.inputs = name, op, attributes, inputs
        self.peer, self.flops, self.bytes, self.variables = peer, flops, nbytes, variables


def linear(name, rows, depth, columns):
    def peer(t):
        return lambda: F.linear(t[0], t[1], t[2])

    return Row(
        f"linear {name}: {rows} x {depth} -> {columns}", "linear", b"",
        [("bf16", [rows, depth]), ("bf16", [columns, depth]), ("bf16", [columns])], peer,
        2 * rows * depth * columns, 2 * (rows * depth + columns * depth + rows * columns))


def scaled_dot_product(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v)
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1]**-0.5, -1) @ v


def attention(name, batch, queries, keys, heads, size):
    """q, k, v [batch, 1, tokens, heads, size]; PyTorch gets its own order by a view, as models do."""

    def peer(t):
        q, k, v = (x.squeeze(1).transpose(1, 2) for x in t[:3])
        return lambda: scaled_dot_product(q, k, v)

    dims = [batch, 1, queries, heads, size]
    other = [batch, 1, keys, heads, size]
    return Row(
        f"attention {name}: {batch} x {heads} x {size}, {queries} to {keys}", "attention",
        struct.pack("<dq", size**-0.5, 0), [("bf16", dims), ("bf16", other), ("bf16", other)], peer,
        4 * batch * heads * size * queries * keys,
        4 * batch * heads * size * (queries + keys))


def attention_grad(name, batch, queries, keys, heads, size):
    def peer(t):
        q, k, v = (x.squeeze(1).transpose(1, 2).detach().requires_grad_() for x in t[:3])
        out = scaled_dot_product(q, k, v)
        cotangent = torch.randn_like(out)
        return lambda: torch.autograd.grad(out, (q, k, v), cotangent, retain_graph=True)

    dims = [batch, 1, queries, heads, size]
    other = [batch, 1, keys, heads, size]
    # lse = log2 of the sum of exponentials: that of equal scores
    lse = ("f32", [batch, 1, heads, queries], math.log2(keys))
    return Row(
        f"attention_grad {name}: {batch} x {heads} x {size}, {queries} to {keys}", "attention_grad",
        struct.pack("<dq", size**-0.5, 0),
        [("bf16", dims), ("bf16", other), ("bf16", other), ("bf16", dims), lse, ("bf16", dims)],
        peer, 10 * batch * heads * size * queries * keys,
        8 * batch * heads * size * (queries + keys))


def conv(name, dims, channels, kernel):
    """x [B, C, (T,) Y, X] with `same` padding and stride 1. PyTorch keeps it channels-last."""
    axes = len(kernel)
    three = [1] * (3 - axes) + kernel
    pads = [k // 2 for k in three]
    weight = [channels, dims[1]] + kernel

    def peer(t):
        layout = torch.channels_last if axes == 2 else torch.channels_last_3d
        x, w = (v.to(memory_format=layout) for v in t[:2])
        run = F.conv2d if axes == 2 else F.conv3d
        return lambda: run(x, w, t[2], padding=[k // 2 for k in kernel])

    places = dims[0] * math.prod(dims[2:])
    return Row(
        f"conv {name}: {dims} to {channels}", "conv",
        struct.pack("<10q", 1, 1, 1, *pads, *pads, 0),
        [("bf16", dims), ("bf16", weight), ("bf16", [channels])], peer,
        2 * places * channels * dims[1] * math.prod(kernel),
        2 * (places * (dims[1] + channels) + math.prod(weight)))


def norm_modulate(batch, tokens, width):
    def peer(t):
        def run():
            return F.layer_norm(t[0], (width,), eps=1e-6) * (1 + t[2]) + t[1]

        return torch.compile(run) if hasattr(torch, "compile") and t[0].is_cuda else run

    return Row(
        f"layer_norm_modulate: {batch} x {tokens} x {width}", "layer_norm_modulate",
        struct.pack("<d", 1e-6),
        [("bf16", [batch, tokens, width])] + 2 * [("bf16", [batch, 1, width])], peer, 0,
        4 * batch * tokens * width)


def group_norm(channels, height, width):
    def peer(t):
        def run():
            return F.silu(F.group_norm(t[0], 32, t[1], t[2], eps=1e-6))

        return torch.compile(run) if hasattr(torch, "compile") and t[0].is_cuda else run

    return Row(
        f"group_norm and SiLU: {channels} x {height} x {width}", "group_norm",
        struct.pack("<dii", 1e-6, 32, 1),
        [("bf16", [1, channels, height, width]), ("bf16", [channels]), ("bf16", [channels])], peer, 0,
        4 * channels * height * width)


def adamw(count):
    def peer(t):
        p = torch.nn.Parameter(t[0].clone())
        p.grad = t[1].clone()
        options = {"fused": True} if t[0].is_cuda else {}
        step = torch.optim.AdamW([p], lr=1e-4, weight_decay=0.01, **options)
        return step.step

    state = ("f32", [count])
    return Row(
        f"adamw: {count} weights", "adamw", struct.pack("<4d", 0.9, 0.999, 1e-8, 0.01),
        [state, state, state, ("f32", [count], 0.5), ("f32", [], 1e-4), ("i64", [], 7), None], peer,
        0, 28 * count, variables=(0, 2, 3))


def adamw_ema(count):
    """PyTorch's fused AdamW, then the average."""

    def peer(t):
        average = t[4].clone()
        p = torch.nn.Parameter(t[0].clone())
        p.grad = t[1].clone()
        options = {"fused": True} if t[0].is_cuda else {}
        step = torch.optim.AdamW([p], lr=1e-4, weight_decay=0.01, **options).step

        def run():
            step()
            average.lerp_(p.detach(), 1e-4)

        return run

    state = ("f32", [count])
    return Row(
        f"adamw_ema: {count} weights", "adamw_ema",
        struct.pack("<5d", 0.9, 0.999, 1e-8, 0.01, 0.9999),
        [state, state, state, ("f32", [count], 0.5), state, ("f32", [], 1e-4), ("i64", [], 7), None],
        peer, 0, 36 * count, variables=(0, 2, 3, 4))


def self_attention(name, batch, frames, sites, heads, size, axis, norms):
    """qkv [batch, frames, sites, 3, heads, size] as the product leaves it; axis 1: over frames. With
    norms q and k have RMS norms and, over frames, RoPE. PyTorch permutes, as models do."""

    def peer(t):
        length = frames if axis == 1 else sites

        def turn(x):
            angles = (torch.arange(length, device=x.device)[:, None]
                      * 10000 ** (-torch.arange(0, size, 2, device=x.device) / size)).to(x.dtype)
            a, b = x[..., 0::2], x[..., 1::2]
            c, s = angles.cos(), angles.sin()
            return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)

        def norm(x, gain):
            return x * torch.rsqrt(x.float().square().mean(-1, True) + 1e-6).to(x.dtype) * gain

        def run():
            order = (3, 0, 2, 4, 1, 5) if axis == 1 else (3, 0, 1, 4, 2, 5)
            q, k, v = t[0].permute(order)
            if norms:
                q, k = norm(turn(q), t[3]), norm(turn(k), t[4])
            out = scaled_dot_product(q, k, v)
            return out.permute((0, 3, 1, 2, 4) if axis == 1 else (0, 1, 3, 2, 4)).contiguous()

        return torch.compile(run) if norms and t[0].is_cuda else run

    attributes = struct.pack("<6d5q", size**-0.5, 1e-6, 10000, 1, 1, 1, 1, 1, 0, 0, axis)
    inputs = [("bf16", [batch, frames, sites, 3, heads, size])]
    if norms:
        inputs += [None, None, ("bf16", [size], 1), ("bf16", [size], 1),
                   ("f32", [frames if axis == 1 else sites], COUNTED)]
    tokens, length = batch * frames * sites, frames if axis == 1 else sites
    return Row(
        f"self_attention {name}: {batch} x {frames} x {sites}, {heads} x {size}", "self_attention",
        attributes, inputs, peer, 4 * tokens * length * heads * size, 8 * tokens * heads * size)


def linear_gelu(name, rows, depth, columns):
    """The first product of a feed-forward part with its activation."""

    def peer(t):
        def run():
            return F.gelu(F.linear(t[0], t[1], t[2]), approximate="tanh")

        return torch.compile(run) if hasattr(torch, "compile") and t[0].is_cuda else run

    return Row(
        f"linear_fused {name}: {rows} x {depth} -> {columns}, GELU", "linear_fused",
        struct.pack("<2i", 1, 0),  # gelu_tanh, the dtype of the operands
        [("bf16", [rows, depth]), ("bf16", [columns, depth]), ("bf16", [columns]), None, None], peer,
        2 * rows * depth * columns, 2 * (rows * depth + columns * depth + rows * columns))


def rows(small):
    if small:
        return [
            linear("small", 24, 16, 40), attention("small", 2, 20, 20, 2, 72),
            attention("temporal", 9, 16, 16, 2, 72), attention_grad("small", 1, 20, 20, 2, 72),
            conv("small", [1, 4, 6, 8], 8, [3, 3]), conv("small", [1, 4, 3, 6, 8], 8, [3, 3, 3]),
            norm_modulate(2, 7, 64), group_norm(32, 4, 6), adamw(1000), adamw_ema(1000),
            self_attention("temporal", 1, 5, 6, 2, 8, 1, True),
            self_attention("spatial", 1, 2, 20, 2, 8, 2, False), linear_gelu("small", 24, 16, 40),
        ]
    return [
        linear("STDiT qkv", 32768, 1152, 3456), linear("STDiT out", 32768, 1152, 1152),
        linear("STDiT fc1", 32768, 1152, 4608), linear("STDiT fc2", 32768, 4608, 1152),
        linear("OSP qkv", 28800, 2304, 6912), linear("OSP fc1", 28800, 2304, 9216),
        linear("T5-XXL", 300, 4096, 10240),
        attention("spatial", 128, 256, 256, 16, 72), attention("spatial", 32, 1024, 1024, 16, 72),
        attention("spatial", 8, 4096, 4096, 16, 72), attention("3-D", 1, 28800, 28800, 24, 96),
        attention("64", 4, 4096, 4096, 16, 64), attention("128", 4, 4096, 4096, 16, 128),
        attention("temporal", 2048, 16, 16, 16, 72), attention("cross", 2, 16384, 120, 16, 72),
        attention_grad("spatial", 32, 1024, 1024, 16, 72),
        attention_grad("3-D", 1, 14400, 14400, 24, 96),
        attention_grad("temporal", 2048, 16, 16, 16, 72),
        conv("SD VAE", [1, 512, 64, 64], 512, [3, 3]),
        conv("SD VAE", [1, 128, 512, 512], 128, [3, 3]),
        conv("causal VAE", [1, 256, 9, 64, 64], 256, [3, 3, 3]),
        norm_modulate(2, 16384, 1152), group_norm(128, 512, 512), adamw(1 << 27),
        adamw_ema(1 << 27), self_attention("temporal", 8, 16, 256, 16, 72, 1, False),
        self_attention("temporal", 8, 16, 256, 16, 72, 1, True),
        self_attention("spatial", 8, 16, 256, 16, 72, 2, False),
        self_attention("spatial", 2, 16, 1024, 16, 72, 2, False),
        linear_gelu("STDiT fc1", 32768, 1152, 4608), linear_gelu("OSP fc1", 28800, 2304, 9216),
    ]


# ---- files


def fill_of(spec, random):
    dtype, dims = spec[0], spec[1]
    if len(spec) > 2 and spec[2] == COUNTED:
        values = np.arange(math.prod(dims), dtype=np.float32).reshape(dims)
    elif len(spec) > 2:
        values = np.full(dims, spec[2], np.float32)
    elif dtype == "i64":
        values = np.zeros(dims, np.float32)
    else:
        values = random.standard_normal(dims, np.float32)
        # what weights and activations have, so that sums stay small
        values *= 0.5
    return np.asarray(values, np.float32)


def stored(values, dtype):
    """Little-endian bytes; bf16 by rounding to nearest even."""
    if dtype == "bf16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"f32": "<f4", "f16": "<f2", "i64": "<i8"}[dtype]).tobytes()


def write_case(folder, row, values):
    names = {"bf16": "BF16", "f32": "F32", "f16": "F16", "i64": "I64"}
    header, inputs, at, parts = {}, [], 0, []
    for i, spec in enumerate(row.inputs):
        if spec is None:
            inputs.append(None)
            continue
        data = stored(values[i], spec[0])
        header[f"in{i}"] = {"dtype": names[spec[0]], "shape": spec[1],
                            "data_offsets": [at, at + len(data)]}
        at += len(data)
        parts.append(data)
        strides = [math.prod(spec[1][a + 1:]) for a in range(len(spec[1]))]
        inputs.append({"dtype": spec[0], "dims": spec[1], "strides": strides, "offset": 0,
                       "variable": i in row.variables})
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "inputs.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for data in parts:
            file.write(data)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({"op": row.op, "path": "bench", "attributes": row.attributes.hex(),
                   "inputs": inputs}, file)


# ---- timing


def time_kinora(arguments, folder, work):
    path = os.path.join(work, "bench.json")
    command = [arguments.kinora, "bench", "ops", "--device", arguments.device, "--case", folder,
               "--min-time", str(arguments.min_time), "--json", path]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        return None, run.stderr.strip().splitlines()[-1:] or ["failed"]
    with open(path) as file:
        case = json.load(file)["cases"][0]
    return case["median"], [case["kernel"]]


def time_peer(arguments, run, device):
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    for _ in range(3):
        run()
    wait()
    samples, end = [], time.perf_counter() + arguments.min_time
    while time.perf_counter() < end or len(samples) < 5:
        start = time.perf_counter()
        run()
        wait()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def as_tensors(row, values, device):
    kinds = {"bf16": torch.bfloat16, "f32": torch.float32, "f16": torch.float16, "i64": torch.int64}
    return [None if spec is None else torch.from_numpy(values[i]).to(device, kinds[spec[0]])
            for i, spec in enumerate(row.inputs)]


def measure(arguments, row, work):
    random = np.random.default_rng(1)
    values = [None if spec is None else fill_of(spec, random) for spec in row.inputs]
    folder = os.path.join(work, "case")
    write_case(folder, row, values)
    device = "cuda" if torch is not None and torch.cuda.is_available() else "cpu"
    use_peer = torch is not None and not arguments.no_torch and (device == "cuda" or arguments.small)
    mine, theirs, notes = [], [], []
    run = None
    if use_peer:
        try:
            run = row.peer(as_tensors(row, values, device))
        except RuntimeError as error:
            notes.append(f"PyTorch: {str(error).splitlines()[0]}")
    for _ in range(arguments.rounds):
        seconds, told = time_kinora(arguments, folder, work)
        if seconds is None:
            notes.append("Kinora: " + told[0])
            break
        mine.append(seconds)
        kernel = told[0]
        if run is not None:
            try:
                theirs.append(time_peer(arguments, run, device))
            except RuntimeError as error:
                notes.append(f"PyTorch: {str(error).splitlines()[0]}")
                run = None
    shutil.rmtree(folder)
    result = {"name": row.name, "op": row.op, "flops": row.flops, "bytes": row.bytes,
              "kinora": mine, "torch": theirs, "notes": notes}
    if mine:
        result["kernel"] = kernel
    if device == "cuda":
        del run
        torch.cuda.empty_cache()
    return result


def line(result):
    def of(samples):
        return statistics.median(samples) if samples else None

    mine, theirs = of(result["kinora"]), of(result["torch"])
    rate = ""
    if mine:
        rate = (f"{result['flops'] / mine / 1e12:.0f} TFLOP/s" if result["flops"] > 100 * result["bytes"]
                else f"{result['bytes'] / mine / 1e9:.0f} GB/s")
    ratio = f"{theirs / mine:.2f}" if mine and theirs else ""
    cells = [result["name"], f"{mine * 1e6:.1f}" if mine else "", rate,
             f"{theirs * 1e6:.1f}" if theirs else "", ratio, result.get("kernel", ""),
             "; ".join(result["notes"])]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinora", default="kinora")
    parser.add_argument("--device", default="cuda0")
    parser.add_argument("--output", required=True)
    parser.add_argument("--row", action="append", default=[], help="only rows with this in their name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--min-time", type=float, default=0.3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--no-torch", action="store_true")
    arguments = parser.parse_args()
    if torch is not None:
        torch.backends.cudnn.benchmark = True
    os.makedirs(arguments.output, exist_ok=True)
    head = ["| op | Kinora, us | rate | PyTorch, us | times as fast | kernel | notes |",
            "|---|---|---|---|---|---|---|"]
    lines, results = list(head), []
    print("\n".join(head), flush=True)
    for row in rows(arguments.small):
        if arguments.row and not any(text in row.name for text in arguments.row):
            continue
        with tempfile.TemporaryDirectory() as work:
            results.append(measure(arguments, row, work))
        lines.append(line(results[-1]))
        print(lines[-1], flush=True)
        # whole after every row: the time may end
        with open(os.path.join(arguments.output, "shapes.json"), "w") as file:
            json.dump({"torch": torch.__version__ if torch is not None else None, "rows": results},
                      file, indent=1)
        with open(os.path.join(arguments.output, "shapes.md"), "w") as file:
            file.write("\n".join(lines) + "\n")
    return 0 if results and all(result["kinora"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
