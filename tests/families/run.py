#!/usr/bin/env python3
"""Merges tiny models of many families with mixdown, and loads what comes of it with transformers.

    pip install -r requirements.txt
    MIXDOWN=path/to/mixdown python run.py [FAMILY...]

For each family: linear, ties and slerp of two models near a base, and layers stacked anew. The output must
load with nothing missing, unexpected or of another shape, and hold the numbers that plain formulas give
for the tensors of the files; of stacked layers each must be the one that it was taken from, or the merge must
have been refused. A family that mixdown does not know is told and is no failure. Exit 1 where anything is wrong.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from safetensors.torch import load_file

import makers

MIXDOWN = os.environ.get("MIXDOWN", "mixdown")


class Wrong(Exception):
    """What is not as it should be."""


def merge(folder, recipe):
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    command = [MIXDOWN, "merge", "recipe.yaml", "--out", "out", "--force"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr


def stored(folder):
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def loads(family, folder):
    """The model of an output, which must be whole."""
    wanted = makers.model_class(family)
    model, told = wanted.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told[key]:
            raise Wrong(f"{key}: {sorted(map(str, told[key]))[:4]}")
    return model


def linear(base, one, two):
    return 0.5 * one + 0.5 * two


def ties(base, one, two):
    deltas = torch.stack([one - base, two - base]).double()
    signs = torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    agrees = deltas.sign() == signs
    count = agrees.sum(0).clamp(min=1)
    return (base.double() + (deltas * agrees).sum(0) / count).float()


def slerp(base, one, two):
    a, b = one.double().flatten(), two.double().flatten()
    norms = a.norm(), b.norm()
    if min(norms) == 0:
        return (0.5 * (a + b)).reshape(one.shape).float()
    cosine = (a / norms[0]) @ (b / norms[1])
    if abs(cosine) > 0.9995:
        return (0.5 * (a + b)).reshape(one.shape).float()
    angle = torch.arccos(cosine)
    factor = torch.sin(0.5 * angle) / torch.sin(angle)
    return (factor * (a + b)).reshape(one.shape).float()


METHODS = {
    "linear": (linear, {"merge_method": "linear", "models": [
        {"model": "one", "parameters": {"weight": 0.5}}, {"model": "two", "parameters": {"weight": 0.5}}]}),
    "ties": (ties, {"merge_method": "ties", "base_model": "base", "models": [
        {"model": "one", "parameters": {"weight": 1.0, "density": 1.0}},
        {"model": "two", "parameters": {"weight": 1.0, "density": 1.0}}]}),
    "slerp": (slerp, {"merge_method": "slerp", "base_model": "one", "models": [{"model": "one"}, {"model": "two"}],
                      "parameters": {"t": 0.5}}),
}


def check_method(family, folder, formula, recipe):
    status, told = merge(folder, recipe | {"dtype": "float32"})
    if status:
        raise Wrong(f"exit {status}: {told.strip().splitlines()[:2]}")
    base, one, two, out = (stored(folder / name) for name in ("base", "one", "two", "out"))
    if set(out) != set(one):
        raise Wrong(f"names: {sorted(set(out) ^ set(one))[:4]}")
    for name, found in out.items():
        if not found.is_floating_point():
            continue
        expected = formula(base[name], one[name], two[name])
        error = (found - expected).abs().max().item() if found.numel() else 0.0
        if not error <= 2e-5 * max(1.0, expected.abs().max().item()):
            raise Wrong(f"{name} is off by {error:.2e}")
    loads(family, folder / "out")


# The layers of the stacks that are made, by their numbers in the input.
STACKS = {"repeated": [0, 1, 2, 1, 2, 3], "one left out": [0, 1, 3]}
LAYER = re.compile(r"^(.*?\.)(\d+)(\..*)$")


def slices(layers):
    found = []
    for layer in layers:
        if found and found[-1][1] == layer:
            found[-1][1] += 1
        else:
            found.append([layer, layer + 1])
    return [{"sources": [{"model": "one", "layer_range": pair}]} for pair in found]


def check_lists(before, after, layers):
    """What a config says of each layer must be said of the layers that were taken."""
    count = max(layers) + 1
    for key, value in before.items():
        if isinstance(value, list) and len(value) == count and key != "architectures":
            expected = [value[layer] for layer in layers]
            if after.get(key) != expected:
                raise Wrong(f"{key} is {after.get(key)}, expected {expected}")


def check_stack(family, folder, layers):
    status, told = merge(folder, {"merge_method": "passthrough", "slices": slices(layers), "dtype": "float32"})
    if status == 2 and told.startswith("error[E032"):
        return "refused"
    if status:
        raise Wrong(f"exit {status}: {told.strip().splitlines()[:2]}")
    own = makers.model_class(family).from_pretrained(folder / "one", dtype=torch.float32)
    made = loads(family, folder / "out")
    check_lists(own.config.to_dict(), made.config.to_dict(), layers)
    own = own.state_dict()
    for name, found in made.state_dict().items():
        parts = LAYER.match(name)
        source = name
        if parts and int(parts[2]) < len(layers) and (".layers." in name or ".h." in name):
            source = f"{parts[1]}{layers[int(parts[2])]}{parts[3]}"
        if source not in own or not torch.equal(found, own[source]):
            raise Wrong(f"{name} is not {source} of the input")
    return "ok"


def check_layouts(family, folder):
    """One model as the library stores it and one as it holds it in memory are merged in the layout of the first."""
    two = makers.model_class(family).from_pretrained(folder / "two", dtype=torch.float32)
    two.save_pretrained(folder / "held", save_original_format=False)
    shapes = lambda name: {key: value.shape for key, value in stored(folder / name).items()}
    if shapes("held") == shapes("two"):
        return "ok"
    one = makers.model_class(family).from_pretrained(folder / "one", dtype=torch.float32).state_dict()
    other = two.state_dict()
    for models in (("one", "held"), ("held", "one")):
        recipe = {"merge_method": "linear", "dtype": "float32",
                  "models": [{"model": name, "parameters": {"weight": 0.5}} for name in models]}
        status, told = merge(folder, recipe)
        if status == 2 and told.startswith("error[E03"):
            return "refused"
        if status:
            raise Wrong(f"exit {status}: {told.strip().splitlines()[:2]}")
        if shapes("out") != shapes(models[0]):
            raise Wrong(f"names or shapes are not those of {models[0]}")
        for name, found in loads(family, folder / "out").state_dict().items():
            expected = 0.5 * one[name] + 0.5 * other[name]
            if found.is_floating_point() and not torch.allclose(found, expected, atol=2e-5):
                raise Wrong(f"{name} is off by {(found - expected).abs().max().item():.2e} in the layout of {models[0]}")
    return "ok"


def check(family):
    wrong, told = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        base = makers.make(family, 1)
        base.save_pretrained(folder / "base")
        for name, seed in (("one", 2), ("two", 3)):
            makers.make(family, seed, base).save_pretrained(folder / name)
        inspected = subprocess.run(
            [MIXDOWN, "inspect", "base", "--json"], cwd=folder, capture_output=True, text=True)
        if inspected.returncode == 0 and not json.loads(inspected.stdout).get("architecture"):
            told.append("not known")
        steps = [(method, lambda m=method: check_method(family, folder, *METHODS[m])) for method in METHODS]
        steps.append(("stored and held", lambda: check_layouts(family, folder)))
        if family in makers.STACKED:
            steps += [(stack, lambda s=stack: check_stack(family, folder, STACKS[s])) for stack in STACKS]
        for step, run in steps:
            try:
                if run() == "refused":
                    told.append(f"{step}: refused")
            except Wrong as error:
                wrong.append(f"{step}: {error}")
    return wrong, told


def main():
    families, failures = sys.argv[1:] or list(makers.FAMILIES), 0
    start = time.monotonic()
    for family in families:
        try:
            wrong, told = check(family)
        except Exception as error:  # a model that cannot be made is a matter of the library
            wrong, told = [f"{type(error).__name__}: {error}"], []
        failures += bool(wrong)
        print(f"{'WRONG' if wrong else 'ok':6}{family:14}{'; '.join(told)}", flush=True)
        for line in wrong:
            print(f"      {line}", flush=True)
    print(f"{len(families) - failures} of {len(families)} families right, in {time.monotonic() - start:.0f} s")
    sys.exit(1 if failures else 0)


main()
