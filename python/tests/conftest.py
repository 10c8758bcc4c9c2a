"""Small models, made anew for each test."""

import json

import numpy
import pytest
from safetensors.numpy import save_file


def write_model(folder, tensors, config=None):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "mine"}))
    return folder


def arrays(seed, shape=(6, 4)):
    numbers = numpy.random.default_rng(seed)
    return {
        "layers.0.weight": numbers.standard_normal(shape).astype("float32"),
        "layers.1.weight": numbers.standard_normal(shape).astype("float32"),
        "norm.weight": numbers.standard_normal(shape[:1]).astype("float32"),
    }


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Folders `base`, `a` and `b` in the current folder, and their tensors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXDOWN_CACHE", str(tmp_path / "cache"))
    found = {name: arrays(seed) for seed, name in enumerate(["base", "a", "b"])}
    for name, tensors in found.items():
        write_model(tmp_path / name, tensors)
    return found


LINEAR = {
    "mixdown": 1,
    "models": {
        "a": {"path": "./a", "parameters": {"weight": 0.25}},
        "b": {"path": "./b", "parameters": {"weight": 0.75}},
    },
    "method": "linear",
}


@pytest.fixture
def linear():
    """a and b in the proportion of one to three."""
    return json.loads(json.dumps(LINEAR))
