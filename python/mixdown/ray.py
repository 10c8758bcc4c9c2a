"""Merges on the machines of a Ray cluster.

A merge is made in parts, each a task of Ray's, and joined when all are there. All machines must see the
models, the recipe's files and the output's folder under the same paths: a shared file system. A part whose
machine or worker dies is begun again elsewhere and goes on where it was, as far as its journal can be read
there.

    import mixdown.ray

    mixdown.ray.merge("recipe.yaml", "/shared/merged", parts=16, resources={"CPU": 8})
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Mapping

import ray
import ray.exceptions
import ray.util.scheduling_strategies

import mixdown

from . import _mixdown
from ._errors import Diagnostic, Interrupted, MergeError, MixdownError, told
from ._progress import Listener, Progress
from ._recipe import Recipe, request

_PERIOD = 0.25
"""Seconds between two looks at the cluster."""

_PATIENCE = 120.0
"""Seconds that a part waits for the process that made it before: a node that is lost for Ray may still run."""

_BUSY = "E0504"
_LOST = "E0555"


def merge(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    parts: int | None = None,
    resources: Mapping[str, float] | None = None,
    retries: int = 3,
    set: Mapping[str, Any] | None = None,
    memory: int | str | None = None,
    shard_size: int | str | None = None,
    force: bool = False,
    allow_nonfinite: bool = False,
    hash_inputs: bool = False,
    cache: bool = True,
    follow_links: bool = False,
    progress: Progress = None,
) -> mixdown.Assembled:
    """Merges on a cluster, and writes the result to the folder `out`: the bytes of `mixdown.merge`.

    `parts` is how many tasks there are, one for each machine of the cluster by default. `resources` are what a
    task asks Ray for: `CPU` (1 by default, and as many threads work), `GPU`, `memory` in bytes, or the
    cluster's own. A task whose worker or machine dies is begun again at most `retries` times. The other
    keywords are those of `mixdown.merge`. A cluster is found or started as `ray.init()` does, unless the caller
    is connected already. When the call is interrupted or fails, parts that are done are kept, and the same call
    goes on.

    **Errors.** `RecipeError` with all mistakes together, before a task is started; `MergeError` when data or
    disk are in the way, or a part was lost more often than `retries` (E0555).
    """
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    count = parts if parts is not None else max(1, len(_machines()))
    wanted = dict(resources or {})
    threads = max(1, int(wanted.get("CPU", 1)))
    asked = {
        "recipe": request(recipe, set, follow_links),
        "out": os.path.abspath(out),
        "memory": None if memory is None else str(memory),
        "threads": threads,
        "device": None,
        "shard_size": None if shard_size is None else str(shard_size),
        "force": force,
        "allow_nonfinite": allow_nonfinite,
        "hash_inputs": hash_inputs,
        "cache": cache,
        "report": None,
        "part": None,
    }
    with Listener(progress) as listener:
        # Mistakes are told here, once, before anything runs elsewhere.
        with told():
            cut = json.loads(_mixdown.plan_parts(json.dumps(asked), count, listener))
        shown = _Shown(cut, listener)
        _run(asked, count, _options(wanted, retries), shown)
    return mixdown.assemble(os.fspath(out), force=force, progress=progress)


def _machines() -> list[Any]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _options(wanted: dict[str, float], retries: int) -> dict[str, Any]:
    options: dict[str, Any] = {"max_retries": retries, "num_cpus": wanted.pop("CPU", 1)}
    if "GPU" in wanted:
        options["num_gpus"] = wanted.pop("GPU")
    if "memory" in wanted:
        options["memory"] = wanted.pop("memory")
    if wanted:
        options["resources"] = wanted
    return options


def _run(asked: dict[str, Any], count: int, options: dict[str, Any], shown: _Shown) -> None:
    """Runs all parts, and stops the others when one fails."""
    here = os.getcwd()
    counter = _counter()
    task = ray.remote(_part).options(name="mixdown part", **options)
    numbers = {
        task.remote(json.dumps(asked), number, count, here, counter): number
        for number in range(1, count + 1)
    }
    left = list(numbers)
    try:
        while left:
            done, left = ray.wait(left, timeout=_PERIOD)
            for ref in done:
                _check(ref, numbers[ref], count)
                shown.finish(numbers[ref])
            shown.show(_counted(counter))
    except BaseException:
        for ref in left:
            ray.cancel(ref)
        # They hear it as Ctrl-C, and their journals stay; what does not end is left alone.
        ray.wait(left, num_returns=len(left), timeout=10) if left else None
        raise
    finally:
        ray.kill(counter)


def _check(ref: Any, number: int, count: int) -> None:
    """Raises what went wrong with a part."""
    try:
        ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, MixdownError) else error) from None
    except ray.exceptions.TaskCancelledError:
        raise Interrupted(f"interrupted: part {number}/{count} was cancelled") from None
    except ray.exceptions.RayError as error:
        found = Diagnostic(
            severity="error",
            code=_LOST,
            headline=f"part {number}/{count} was lost more often than it may be begun again",
            facts=(("cause", str(error).splitlines()[0]),),
            notes=("its worker or machine died each time",),
            help="see why in Ray's logs, often too little memory; the same call goes on where it was",
        )
        text = f"error[{_LOST}]: {found.headline}\n   = cause: {found.facts[0][1]}\n"
        text += f"   = note: {found.notes[0]}\n   = help: {found.help}\n"
        raise MergeError(text, (found,)) from None


def _part(asked: str, number: int, count: int, folder: str, counter: Any) -> None:
    """One part, on a machine of the cluster."""
    # Paths of models in a recipe start from the folder of the caller.
    before = os.getcwd()
    try:
        os.chdir(folder)
    except OSError as error:
        raise MergeError(
            f"the folder {folder} of the caller is not on this machine: {error}\n"
        ) from None
    try:
        wanted = {**json.loads(asked), "part": f"{number}/{count}"}
        tell = _Teller(number, counter)
        begun = time.monotonic()
        while True:
            try:
                with told():
                    _mixdown.merge(json.dumps(wanted), tell)
                return
            except MergeError as error:
                is_busy = any(found.code == _BUSY for found in error.errors)
                if not is_busy or time.monotonic() - begun > _PATIENCE:
                    raise
                time.sleep(1)
    finally:
        os.chdir(before)


class _Teller:
    """Tells the counter how far a part is, at most some times a second."""

    def __init__(self, number: int, counter: Any) -> None:
        self._number, self._counter, self._last = number, counter, 0.0

    def __call__(self, text: str) -> None:
        event = json.loads(text)
        now = time.monotonic()
        if event["event"] != "progress" or event["task"] != "merging" or now - self._last < _PERIOD:
            return
        self._last = now
        # Nobody waits for the answer: a counter that is lost stops no merge.
        self._counter.tell.remote(self._number, event["bytes_done"], event["bytes"])


class _Counter:
    def __init__(self) -> None:
        self._parts: dict[int, tuple[int, int]] = {}

    def tell(self, number: int, done: int, of: int) -> None:
        self._parts[number] = (done, of)

    def told(self) -> dict[int, tuple[int, int]]:
        return self._parts


def _counter() -> Any:
    """An actor on the caller's machine, which lives as long as the caller looks."""
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        node_id=ray.get_runtime_context().get_node_id(), soft=True
    )
    made = ray.remote(_Counter).options(num_cpus=0, scheduling_strategy=place, max_restarts=-1)
    return made.remote()


def _counted(counter: Any) -> dict[int, tuple[int, int]]:
    try:
        found: dict[int, tuple[int, int]] = ray.get(counter.told.remote(), timeout=_PERIOD)
    except ray.exceptions.RayError:
        return {}
    return found


class _Shown:
    """The progress of all parts in one bar."""

    def __init__(self, cut: dict[str, Any], listener: Listener) -> None:
        planned = enumerate(cut["parts"], 1)
        self._of = {number: part["bytes_read"] + part["bytes_written"] for number, part in planned}
        self._done = dict.fromkeys(self._of, 0)
        self._finished: list[int] = []
        self._listener = listener

    def finish(self, number: int) -> None:
        self._finished.append(number)
        self._done[number] = self._of[number]

    def show(self, counted: Mapping[int, tuple[int, int]]) -> None:
        for number, (done, of) in counted.items():
            if number not in self._finished:
                # A part that goes on counts only what is left of it.
                before = max(0, self._of[number] - of)
                self._done[number] = min(before + done, self._of[number])
        event = {
            "event": "progress",
            "task": "merging",
            "stage": "parts",
            "parts": len(self._of),
            "parts_done": len(self._finished),
            "bytes": sum(self._of.values()),
            "bytes_done": sum(self._done.values()),
            "is_last": len(self._finished) == len(self._of),
        }
        self._listener(json.dumps(event))
