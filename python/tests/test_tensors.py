"""Merges without files."""

import json

import mixdown
import numpy
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

RECIPE = {
    "mixdown": 1,
    "models": {"base": "base", "a": "a", "b": "b"},
    "base": "base",
    "method": "ties",
    "parameters": {"weight": 1, "density": 0.5},
}


@pytest.fixture
def by_files(models):
    recipe = {**RECIPE, "models": {name: f"./{name}" for name in ["base", "a", "b"]}}
    mixdown.merge(recipe, "out")
    return load_file("out/model.safetensors")


def assert_same(found, wanted):
    assert list(found) == sorted(wanted)
    for name in wanted:
        assert numpy.asarray(found[name]).tobytes() == wanted[name].tobytes(), name


# The names of given models come first: a folder of the same name is not looked at.
def test_arrays_give_the_bytes_of_files(models, by_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert_same(mixdown.merge_tensors(RECIPE, models), by_files)
    assert_same(mixdown.merge_tensors(RECIPE, models, threads=1, memory="64MB"), by_files)
    assert_same(dict(sorted(mixdown.iter_tensors(RECIPE, models))), by_files)


def test_torch_tensors_come_back_as_torch(models, by_files):
    torch = pytest.importorskip("torch")
    given = {
        model: {name: torch.from_numpy(value) for name, value in tensors.items()}
        for model, tensors in models.items()
    }
    found = mixdown.merge_tensors(RECIPE, given)
    assert all(isinstance(value, torch.Tensor) for value in found.values())
    assert_same({name: value.numpy() for name, value in found.items()}, by_files)


def test_bfloat16_is_rounded_once(models):
    torch = pytest.importorskip("torch")
    given = {
        model: {name: torch.from_numpy(value).bfloat16() for name, value in models[model].items()}
        for model in ["a", "b"]
    }
    recipe = {"mixdown": 1, "models": {"a": "a", "b": "b"}, "method": "linear", "parameters": {"weight": 1}}
    found = mixdown.merge_tensors(recipe, given)
    for name, value in found.items():
        wanted = ((given["a"][name].double() + given["b"][name].double()) / 2).bfloat16()
        assert value.dtype == torch.bfloat16 and torch.equal(value, wanted), name


def test_a_handle_of_safetensors_is_a_model(models, by_files):
    with (
        safe_open("base/model.safetensors", "numpy") as base,
        safe_open("a/model.safetensors", "numpy") as a,
    ):
        assert_same(mixdown.merge_tensors(RECIPE, {"base": base, "a": a, "b": models["b"]}), by_files)


def test_given_models_and_files_go_together(models, by_files):
    recipe = {**RECIPE, "models": {"base": "./base", "a": "given", "b": "./b"}}
    assert_same(mixdown.merge_tensors(recipe, {"given": models["a"]}), by_files)


def test_an_iterator_can_be_left_early(models):
    for _ in range(20):
        found = mixdown.iter_tensors(RECIPE, models)
        name, value = next(found)
        assert value.shape == models["a"][name].shape
        found.close()


def test_what_cannot_be_read_is_told_with_its_name(models):
    torch = pytest.importorskip("torch")
    swapped = {**models["a"], "norm.weight": models["a"]["layers.0.weight"].T}
    with pytest.raises(ValueError, match="`norm.weight` of `a` is not contiguous"):
        mixdown.merge_tensors(RECIPE, {**models, "a": swapped})
    transposed = {"layers.0.weight": torch.zeros(4, 6).T}
    with pytest.raises(ValueError, match="`layers.0.weight` of `a` is not contiguous"):
        mixdown.merge_tensors(RECIPE, {**models, "a": transposed})
    elsewhere = {"layers.0.weight": torch.zeros(4, 6, device="meta")}
    with pytest.raises(ValueError, match="is on meta"):
        mixdown.merge_tensors(RECIPE, {**models, "a": elsewhere})
    with pytest.raises(ValueError, match="big-endian"):
        mixdown.merge_tensors(RECIPE, {**models, "a": {"w": numpy.zeros(3, ">f4")}})
    with pytest.raises(TypeError, match="`w` of `a` is no tensor"):
        mixdown.merge_tensors(RECIPE, {**models, "a": {"w": [1.0]}})
    with pytest.raises(TypeError, match="complex64"):
        mixdown.merge_tensors(RECIPE, {**models, "a": {"w": numpy.zeros(3, "complex64")}})
    with pytest.raises(TypeError, match="a model is a dict"):
        mixdown.merge_tensors(RECIPE, {**models, "a": 5})


def test_tensors_of_other_shapes_are_refused(models):
    other = {**models["a"], "norm.weight": numpy.zeros(9, "float32")}
    with pytest.raises(mixdown.MixdownError, match="norm.weight"):
        mixdown.merge_tensors(RECIPE, {**models, "a": other})


def test_nan_is_told_with_its_tensor(models):
    broken = {name: value.copy() for name, value in models["a"].items()}
    broken["norm.weight"][2] = numpy.nan
    with pytest.raises(mixdown.MergeError, match="norm.weight"):
        mixdown.merge_tensors(RECIPE, {**models, "a": broken})


def test_a_checkpoint_is_read_lazily(models):
    opened = mixdown.open("a")
    assert sorted(opened) == sorted(models["a"])
    assert opened.tensors["norm.weight"].shape == (6,)
    assert opened.tensors["norm.weight"].dtype == "float32"
    assert opened.config == json.loads(open("a/config.json").read())
    for name, value in opened.items():
        assert (value == models["a"][name]).all()
    with pytest.raises(KeyError):
        opened["nothing"]
    with pytest.raises(mixdown.RecipeError):
        mixdown.open("./nowhere")
    with pytest.raises(ValueError, match="numpy"):
        mixdown.open("a", library="jax")


def test_results_outlive_the_merge_and_can_be_written_to():
    """Arrays lie on the memory that the merge wrote: it must not be freed before them, nor shared by two."""
    import gc

    one = {f"layers.{n}.weight": numpy.full((64, 64), float(n), "float32") for n in range(20)}
    recipe = {"mixdown": 1, "models": {"a": "a", "b": "b"}, "method": "linear", "parameters": {"weight": 1}}
    views = {name: tensor[1:] for name, tensor in mixdown.iter_tensors(recipe, {"a": one, "b": one})}
    gc.collect()
    again = mixdown.merge_tensors(recipe, {"a": one, "b": one})
    for name, view in views.items():
        assert (view == one[name][1:]).all() and view.flags.writeable
        view[:] = -1
        assert (again[name] == one[name]).all()
