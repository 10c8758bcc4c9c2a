"""The examples in docstrings, and what the package promises of its types and its start."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import mixdown
import pytest

RECIPE = {
    "mixdown": 1,
    "models": {"base": "./base", "a": "./a", "b": "./b"},
    "base": "base",
    "method": "ties",
    "parameters": {"weight": 1, "density": 0.5},
}


def examples():
    modules = [mixdown]
    for found in pkgutil.walk_packages(mixdown.__path__, "mixdown."):
        if found.name.rsplit(".", 1)[-1] in ("__main__", "ray", "_mixdown"):
            continue
        try:
            modules.append(importlib.import_module(found.name))
        except ImportError:
            continue
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in modules:
        for test in finder.find(module, module.__name__, module=module):
            if test.examples:
                yield test


EXAMPLES = list(examples())


def test_what_people_call_has_examples():
    found = {test.name.rsplit(".", 1)[-1] for test in EXAMPLES}
    assert {"merge", "check", "plan", "merge_tensors", "open", "assemble"} <= found


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_examples_give_what_they_say(test, models):
    test.globs.update(mixdown=mixdown, recipe=RECIPE)
    told = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=told.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)


def test_the_start_needs_no_library_of_others():
    script = """
import sys
import mixdown
slow = {"numpy", "torch", "tqdm", "transformers", "peft", "safetensors", "huggingface_hub", "ray"}
print(sorted(slow & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_the_stub_is_what_the_extension_has():
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy.stubtest", "mixdown._mixdown", "--ignore-disjoint-bases"]
    run = subprocess.run(command, capture_output=True, text=True)
    if "unrecognized arguments" in run.stderr:
        run = subprocess.run(command[:-1], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_types_hold():
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports"]
    # Libraries that have no types of their own.
    command += ["--disable-error-code", "no-untyped-call"]
    command += ["--cache-dir", "/dev/null", "-p", "mixdown"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
