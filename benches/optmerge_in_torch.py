#!/usr/bin/env python3
"""OptMerge of one layer in PyTorch, two ways, beside mixdown on the same layer.

    cargo run --release -p mixdown-benches -- make --experts 5 bench-data
    python benches/optmerge_in_torch.py bench-data target/release/mixdown

`thin`: the objective over the k rows of the truncated subspaces alone, with autograd and torch's Adam.
`padded`: the shape in which the method was published: each subspace as a matrix of the weight's own
shape whose rows beyond the first k are zero.
Both take their SVDs in f32 and run a few of the 300 steps, whose time is multiplied up; the SVDs count
once. mixdown merges the same layer in a process of its own, everything else of the model included.
Needs torch and safetensors.
"""
import argparse
import pathlib
import resource
import subprocess
import time

import torch
from safetensors import safe_open

STEPS = 300
EXPERTS = ["a", "b", "c", "d", "e"]
KINDS = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"]

RECIPE = """\
mixdown: 1
models: {base: ./base, a: ./a, b: ./b, c: ./c, d: ./d, e: ./e}
base: base
rules:
  - {tensors: "**_proj.weight", layers: [0, 1], method: optmerge}
  - {tensors: "**", keep: base}
"""


def deltas(folder, name):
    def read(model):
        with safe_open(folder / model / "model.safetensors", "pt") as file:
            return file.get_tensor(name).float()

    base = read("base")
    return [read(expert) - base for expert in EXPERTS]


def truncated(taus, padded):
    """Targets and subspaces of centered task vectors (arXiv:2505.19892, equation 3)."""
    mean = sum(taus) / len(taus)
    targets, rows = [], []
    for tau in taus:
        u, s, v = torch.linalg.svd(tau - mean, full_matrices=False)
        k = s.shape[0] // len(taus)
        subspace = s[:k, None] * v[:k]
        targets.append(u[:, :k] @ subspace + mean)
        if padded:
            whole = torch.zeros_like(tau)
            whole[:k] = subspace
            subspace = whole
        rows.append(subspace)
    return torch.stack(targets), torch.stack(rows)


def merge(taus, padded, steps):
    """Seconds of the SVDs and of one step."""
    start = time.perf_counter()
    targets, rows = truncated(taus, padded)
    weights = torch.stack([1 / tau.square().sum() for tau in taus])[:, None, None]
    merged = torch.nn.Parameter(sum(taus))
    optimizer = torch.optim.Adam([merged], lr=1e-5)
    prepared = time.perf_counter()
    for _ in range(steps):
        along = (merged[None] - targets) @ rows.transpose(1, 2)
        loss = (along.square() * weights).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prepared - start, (time.perf_counter() - prepared) / steps


def in_mixdown(folder, binary):
    (folder / "one-layer.yaml").write_text(RECIPE)
    command = [binary, "merge", "one-layer.yaml", "--out", "one-layer", "--no-cache"]
    subprocess.run(["rm", "-rf", "one-layer"], cwd=folder, check=True)
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    subprocess.run(["rm", "-rf", "one-layer"], cwd=folder, check=True)
    return seconds, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("mixdown", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=5, help="steps that are measured")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds, peak = in_mixdown(options.folder, options.mixdown.resolve())
    print(f"mixdown: {seconds:.1f} s, peak {peak / 1e6:.0f} MB", flush=True)
    for title, padded in [("thin", False), ("padded", True)]:
        total = 0.0
        for kind in KINDS:
            taus = deltas(options.folder, f"model.layers.0.{kind}_proj.weight")
            svd, step = merge(taus, padded, options.steps)
            total += svd + STEPS * step
            print(f"  {title} {kind}: {svd:.2f} s of SVDs, {1000 * step:.0f} ms a step", flush=True)
        print(f"{title}: {total:.0f} s, {total / seconds:.1f} times mixdown's", flush=True)


main()
