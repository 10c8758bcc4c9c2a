"""mergekit's names, as programs that were written for them use them."""

import json
import subprocess
import sys

import mixdown
import numpy
import pytest
from mixdown.mergekit import MergeConfiguration, MergeOptions, run_merge
from safetensors.numpy import load_file

CONFIGURATION = {
    "dtype": "float32",
    "merge_method": "linear",
    "models": [
        {"model": "./a", "parameters": {"weight": 0.25}},
        {"model": "./b", "parameters": {"weight": 0.75}},
    ],
}


def assert_merged(models):
    found = load_file("out/model.safetensors")
    for name, value in found.items():
        wanted = 0.25 * models["a"][name].astype("f8") + 0.75 * models["b"][name].astype("f8")
        numpy.testing.assert_allclose(value, wanted, rtol=3e-7, atol=1e-7)


def test_a_configuration_is_merged(models):
    config = MergeConfiguration.model_validate(CONFIGURATION)
    assert (config.merge_method, config.dtype) == ("linear", "float32")
    options = MergeOptions(cuda=False, copy_tokenizer=True, lazy_unpickle=False, low_cpu_memory=False)
    run_merge(config, out_path="out", options=options)
    assert_merged(models)
    # mergekit writes over what is there.
    run_merge(config, "out", options)


def test_a_text_is_kept_as_it_is(models):
    config = MergeConfiguration.from_yaml(json.dumps(CONFIGURATION, indent=1))
    run_merge(config, "out")
    assert_merged(models)


def test_mistakes_are_told():
    with pytest.raises(mixdown.RecipeError, match="lienar"):
        run_merge({**CONFIGURATION, "merge_method": "lienar"}, "out")
    with pytest.raises(TypeError, match="no_such_option"):
        MergeOptions(no_such_option=1)
    with pytest.raises(TypeError, match="a configuration is a dict"):
        MergeConfiguration.model_validate(5)


def test_libraries_that_import_mergekit_find_it(models):
    script = f"""
import mixdown.mergekit
mixdown.mergekit.install()
import importlib.util
assert importlib.util.find_spec("mergekit") is not None
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
run_merge(MergeConfiguration.model_validate({CONFIGURATION!r}), out_path="out", options=MergeOptions(device="auto"))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert_merged(models)
