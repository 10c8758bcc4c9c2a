"""Merges on a real Ray cluster of several nodes on this machine, some of which die."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import mixdown
import numpy
import pytest
from conftest import write_model

ray = pytest.importorskip("ray", reason="SKIPPED: ray is not installed, so that no cluster is tested")

from ray.cluster_utils import Cluster  # noqa: E402

TIES = {
    "merge_method": "ties",
    "base_model": "./base",
    "models": [
        {"model": "./a", "parameters": {"weight": 1, "density": 0.5}},
        {"model": "./b", "parameters": {"weight": 1, "density": 0.3}},
    ],
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with models large enough that a part can be caught in the middle, and one run's output."""
    folder = tmp_path_factory.mktemp("ray")
    for seed, name in enumerate(["base", "a", "b"]):
        numbers = numpy.random.default_rng(seed)
        tensors = {
            f"layers.{layer}.{side}.weight": numbers.standard_normal((384, 512)).astype("float32")
            for layer in range(12)
            for side in ("up", "down")
        }
        write_model(folder / name, tensors)
    before = os.getcwd()
    os.chdir(folder)
    os.environ["MIXDOWN_CACHE"] = str(folder / "cache")
    mixdown.merge(TIES, "expected", progress=False, shard_size="5MB")
    yield folder
    os.chdir(before)
    del os.environ["MIXDOWN_CACHE"]


@pytest.fixture(scope="module")
def cluster(place):
    """A head that computes nothing, and three nodes of one processor."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [found.add_node(num_cpus=1) for _ in range(3)]
    found.wait_for_nodes()
    ray.init(address=found.address, log_to_driver=False)
    yield found, nodes
    ray.shutdown()
    found.shutdown()


def assert_is_expected(folder):
    expected = sorted(os.listdir("expected"))
    assert sorted(os.listdir(folder)) == expected
    for name in expected:
        assert Path("expected", name).read_bytes() == Path(folder, name).read_bytes(), name


def running(folder):
    """The processes that make parts there, of which something is recorded."""
    found = []
    for journal in Path(folder).glob(".part-*/journal"):
        try:
            if len(journal.read_bytes().splitlines()) > 1:
                found.append(int((journal.parent / "lock").read_text().split()[0]))
        except (OSError, ValueError, IndexError):
            pass
    return found


def while_it_runs(folder, act):
    """Acts once on a process that is in the middle of a part; says whether one was caught."""
    caught = []

    def watch():
        until = time.monotonic() + 120
        while time.monotonic() < until and not caught:
            for process in running(folder):
                if act(process):
                    caught.append(process)
                    break
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return caught


def kill(process):
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_a_cluster_gives_the_bytes_of_one_run(cluster):
    import mixdown.ray

    events = []
    done = mixdown.ray.merge(TIES, "whole", parts=4, shard_size="5MB", progress=events.append)
    assert (done.parts, done.tensors) == (4, 24)
    assert_is_expected("whole")
    shown = [event for event in events if event.get("stage") == "parts"]
    assert shown[-1]["is_last"] and shown[-1]["bytes_done"] == shown[-1]["bytes"] > 0
    counts = [event["bytes_done"] for event in shown]
    assert counts == sorted(counts)


def test_a_killed_worker_is_replaced(cluster):
    import mixdown.ray

    caught = while_it_runs("worker", kill)
    mixdown.ray.merge(TIES, "worker", parts=3, shard_size="5MB", progress=False)
    assert caught, "no worker was caught in the middle: the models are too small"
    assert_is_expected("worker")


def test_mistakes_are_told_before_a_task_runs(cluster):
    import mixdown.ray

    with pytest.raises(mixdown.RecipeError) as raised:
        mixdown.ray.merge({**TIES, "merge_method": "tise"}, "never", parts=3)
    assert "tise" in raised.value.errors[0].headline
    assert not Path("never").exists()


def test_what_a_part_meets_is_told_with_its_diagnostics(cluster, place):
    import mixdown.ray

    tensors = {"w": numpy.array([1, numpy.inf], dtype="float32"), "v": numpy.ones(2, "float32")}
    write_model(place / "broken", tensors)
    recipe = {"merge_method": "linear", "models": [
        {"model": "./broken", "parameters": {"weight": 1}},
    ], "dtype": "float32"}
    with pytest.raises(mixdown.MergeError) as raised:
        mixdown.ray.merge(recipe, "infinite", parts=2)
    assert raised.value.errors[0].code == "E0402"


def test_a_part_that_is_lost_too_often_is_told_and_goes_on(cluster):
    import mixdown.ray

    caught = while_it_runs("lost", kill)
    with pytest.raises(mixdown.MergeError) as raised:
        mixdown.ray.merge(TIES, "lost", parts=2, retries=0, shard_size="5MB", progress=False)
    assert caught and raised.value.errors[0].code == "E0555"
    mixdown.ray.merge(TIES, "lost", parts=2, shard_size="5MB", progress=False)
    assert_is_expected("lost")


def test_a_node_that_dies_is_done_without(cluster):
    import mixdown.ray

    found, nodes = cluster

    def remove(process):
        stat = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        for node in nodes:
            raylets = node.all_processes.get("raylet", [])
            if any(raylet.process.pid == int(stat[1]) for raylet in raylets):
                found.remove_node(node, allow_graceful=False)
                nodes.remove(node)
                return True
        return False

    caught = while_it_runs("node", remove)
    mixdown.ray.merge(TIES, "node", parts=4, shard_size="5MB", progress=False)
    assert caught, "no node was caught in the middle: the models are too small"
    assert_is_expected("node")
    assert json.loads(Path("node/mixdown-manifest.json").read_text())["manifest"] == 1
