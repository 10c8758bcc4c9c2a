"""Merges through files, by recipes in all forms."""

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import mixdown
import numpy
import pytest
from mixdown._progress import Listener
from safetensors.numpy import load_file


def expected(models):
    # Sums are made in f32, as the numbers are stored.
    return {
        name: (0.25 * models["a"][name].astype("f8") + 0.75 * models["b"][name].astype("f8"))
        for name in models["a"]
    }


def assert_is_linear(folder, models):
    found = load_file(Path(folder) / "model.safetensors")
    for name, values in expected(models).items():
        numpy.testing.assert_allclose(found[name], values, rtol=3e-7, atol=1e-7)


def test_a_recipe_is_a_dict_a_text_or_a_path(models, linear, tmp_path):
    text = json.dumps(linear, indent=1)
    (tmp_path / "recipe.yaml").write_text(text)
    files = []
    for number, recipe in enumerate([linear, text, "recipe.yaml", tmp_path / "recipe.yaml"]):
        merged = mixdown.merge(recipe, tmp_path / f"out{number}", progress=False)
        assert (merged.out, merged.tensors) == (tmp_path / f"out{number}", 3)
        assert_is_linear(merged.out, models)
        files.append((merged.out / "model.safetensors").read_bytes())
    assert len(set(files)) == 1


def test_the_program_gives_the_same_bytes(models, linear, tmp_path):
    (tmp_path / "recipe.yaml").write_text(json.dumps(linear))
    mixdown.merge("recipe.yaml", "by_package")
    command = [sys.executable, "-m", "mixdown", "merge", "recipe.yaml", "--out", "by_program"]
    subprocess.run(command, check=True, capture_output=True)
    for name in sorted(os.listdir("by_package")):
        assert Path("by_package", name).read_bytes() == Path("by_program", name).read_bytes(), name


def test_overrides_threads_and_memory_are_taken(models, linear):
    merged = mixdown.merge(
        linear,
        "out",
        set={"models.a.parameters.weight": 0, "models.b.parameters.weight": 1},
        threads=1,
        memory="64MB",
        shard_size="5GB",
    )
    found = load_file(merged.out / "model.safetensors")
    assert all((found[name] == models["b"][name]).all() for name in found)


def test_all_mistakes_are_told_with_their_parts(models, linear):
    linear["method"] = "linaer"
    linear["models"]["a"]["path"] = "./nowhere"
    with pytest.raises(mixdown.RecipeError) as raised:
        mixdown.check(linear)
    headlines = " ".join(found.headline for found in raised.value.errors)
    assert "linaer" in headlines and "nowhere" in headlines
    method = next(found for found in raised.value.errors if "linaer" in found.headline)
    assert method.code.startswith("E") and method.place["line"] > 0 and "linear" in method.help
    assert str(raised.value).startswith("error[E") and method.headline in str(raised.value)


def test_what_has_no_form_in_a_recipe_is_told_with_its_path(linear):
    linear["models"]["a"]["parameters"]["weight"] = object()
    with pytest.raises(TypeError, match=r"recipe\.models\.a\.parameters\.weight"):
        mixdown.check(linear)
    with pytest.raises(TypeError, match="recipe.models"):
        mixdown.check({"models": {1: "./a"}})
    with pytest.raises(ValueError, match="recipe.t"):
        mixdown.check({"t": float("nan")})
    with pytest.raises(TypeError, match="a path, a text or a dict"):
        mixdown.check(5)


def test_an_output_that_is_there_is_no_recipe_error(models, linear):
    mixdown.merge(linear, "out")
    with pytest.raises(mixdown.MergeError, match="out"):
        mixdown.merge(linear, "out")
    mixdown.merge(linear, "out", force=True)


def test_bad_arguments_are_refused(models, linear):
    with pytest.raises(ValueError, match="at least 1"):
        mixdown.merge(linear, "out", threads=0)
    with pytest.raises(ValueError, match="512MiB"):
        mixdown.merge(linear, "out", memory="much")
    with pytest.raises(ValueError, match="auto"):
        mixdown.merge(linear, "out", device="abacus")


def test_headers_tell_plan_check_and_explain(models, linear):
    checked = mixdown.check(linear)
    assert (checked.tensors, checked.models) == (3, 2)
    plan = mixdown.plan(linear, memory="64MB", threads=1)
    assert plan["footprint"]["bytes_written"] == sum(v.nbytes for v in models["a"].values())
    told = mixdown.explain(linear, "norm.weight")
    assert "linear" in json.dumps(told)
    with pytest.raises(mixdown.RecipeError, match="norm.weight"):
        mixdown.explain(linear, "norm.wieght")


def test_checkpoints_are_inspected_and_compared(models, linear):
    told = mixdown.inspect("a", tensors="layers.*.weight")
    assert len(told["tensors"]) == 2 or "layers.0.weight" in json.dumps(told)
    same = mixdown.diff("a", "a")
    assert (same["total"]["equal"], same["total"]["differ"]) == (3, 0)
    assert mixdown.diff("a", "b", tensors="norm.*")["total"]["differ"] == 1


def test_an_output_is_proven_and_a_changed_one_is_not(models, linear):
    merged = mixdown.merge(linear, "out")
    assert mixdown.verify("out").tensors == 3
    file = merged.out / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(mixdown.MergeError) as raised:
        mixdown.verify("out")
    assert raised.value.errors


def test_methods_are_listed():
    found = {method.name: method for method in mixdown.methods()}
    assert "ties" in found and "density" in json.dumps(found["ties"].parameters)


def test_progress_is_told_and_what_it_raises_stops_the_merge(models, linear):
    events = []
    mixdown.merge(linear, "out", progress=events.append)
    last = [event for event in events if event["event"] == "progress"][-1]
    assert (last["task"], last["tensors_done"], last["is_last"]) == ("merging", 3, True)
    assert [event["event"] for event in events].count("started") == 1

    def refuse(event):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        mixdown.merge(linear, "other", progress=refuse)


def test_tqdm_shows_a_bar():
    pytest.importorskip("tqdm")
    event = {"event": "progress", "task": "merging", "stage": "merging", "bytes": 100, "is_last": False}
    with Listener(True) as listener:
        listener(json.dumps({**event, "bytes_done": 40}))
        bar = listener._bar
        assert (bar.n, bar.total, bar.desc) == (40, 100, "merging")
        # An estimate that was too low must not push the bar beyond its end.
        listener(json.dumps({**event, "bytes_done": 140}))
        assert bar.n == 100
        listener(json.dumps({**event, "bytes_done": 100, "is_last": True}))
        assert listener._bar is None and bar.disable
    with Listener(False) as listener:
        listener(json.dumps({**event, "bytes_done": 40}))
        assert listener._bar is None


def test_merges_run_side_by_side(models, linear):
    failures = []

    def work(number):
        try:
            mixdown.merge(linear, f"out{number}", threads=1)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number in range(4):
        assert_is_linear(f"out{number}", models)


def test_ctrl_c_stops_where_it_can_go_on(models, linear, tmp_path):
    """The first event is answered by the signal, so that it comes in the middle without waiting, and to this
    thread: one that is sent to the process may be heard by another thread, later."""
    (tmp_path / "recipe.json").write_text(json.dumps(linear))
    script = """
import json, mixdown, signal, sys
# A shell that put the tests into the background had it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def stop(event):
    signal.raise_signal(signal.SIGINT)
try:
    mixdown.merge("recipe.json", "out", progress=stop)
except KeyboardInterrupt:
    sys.exit(7)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 7, ended.stderr
    mixdown.merge("recipe.json", "out", force=True)
    assert_is_linear("out", models)


def test_warnings_are_warnings_of_python(models):
    recipe = {
        "models": [{"model": "./a", "parameters": {"weight": 1}}, {"model": "./b", "parameters": {"weight": 1}}],
        "merge_method": "linear",
        "dtype": "float32",
        "unknown_key": 1,
    }
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        checked = mixdown.check(recipe)
        mixdown.merge(recipe, "out")
    assert len(checked.warnings) > 0
    assert any("unknown_key" in str(one.message) for one in told)


def test_the_program_is_there():
    told = subprocess.run(["mixdown", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip().endswith(mixdown.__version__)
    wrong = subprocess.run(["mixdown", "check", "nowhere.yaml"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "nowhere.yaml" in wrong.stderr


def test_parts_become_the_output_of_one_run(models, linear, tmp_path):
    mixdown.merge(linear, "whole", shard_size="100B")
    for number in (2, 1, 3):
        part = mixdown.merge(linear, "parts", part=(number, 3), shard_size="100B", progress=False)
        assert part.out == Path(f"parts/part-{number:05}-of-00003")
    done = mixdown.assemble("parts", progress=False)
    assert (done.out, done.parts, done.tensors) == (Path("parts"), 3, 3)
    for name in sorted(os.listdir("whole")):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes(), name
    assert sorted(os.listdir("whole")) == sorted(os.listdir("parts"))
    assert mixdown.assemble("parts").parts is None


def test_parts_that_are_missing_or_cannot_be_are_told(models, linear):
    with pytest.raises(ValueError, match="the numbers are 1 to 3, found 4"):
        mixdown.merge(linear, "out", part="4/3")
    mixdown.merge(linear, "out", part="2/3")
    with pytest.raises(mixdown.MergeError) as raised:
        mixdown.assemble("out")
    assert [found.code for found in raised.value.errors] == ["E0552"]
    assert ("missing", "1, 3") in raised.value.errors[0].facts
