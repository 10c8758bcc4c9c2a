"""Requests to the engine, and their results as types."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

from . import _mixdown
from ._errors import Diagnostic, told
from ._progress import Listener, Progress
from ._recipe import Recipe, request



@dataclass(frozen=True)
class Merged:
    """A merge that was done."""

    out: Path
    """The folder."""
    tensors: int | None
    """Tensors of the output; none if an earlier run had finished it."""
    tensors_reused: int | None
    """Those that an interrupted run had made."""
    bytes: int | None
    """Bytes of all tensors."""
    seconds: float | None
    """From the reading of the recipe to the end."""
    peak_bytes: int | None
    """Most bytes in use at a time."""
    warnings: tuple[Diagnostic, ...]
    """What a person should know."""
    document: dict[str, Any] = field(repr=False, compare=False)
    """All that the program's event `done` says."""


@dataclass(frozen=True)
class Checked:
    """A recipe without mistakes."""

    tensors: int
    """Tensors that the output would have."""
    models: int
    """Models that go in."""
    warnings: tuple[Diagnostic, ...]
    """What a person should know."""


@dataclass(frozen=True)
class Verified:
    """An output that agrees with its manifest."""

    tensors: int
    bytes: int
    shards: int
    files: int
    """Other files."""


@dataclass(frozen=True)
class Searched:
    """What a search found."""

    merged: Path
    """The chosen merge."""
    chosen: int
    """Its position among the report's candidates."""
    report: dict[str, Any] = field(repr=False)
    """All that was compared, as in report.json."""


@dataclass(frozen=True)
class Surveyed:
    """Whether experts can be merged, and why not."""

    experts: tuple[dict[str, Any], ...]
    """What each expert adds to the base: name, norm, drift (`relative`), what it alone changed."""
    pairs: tuple[dict[str, Any], ...]
    """What each two experts have in common: cosine, signs that disagree, shared energy."""
    findings: tuple[dict[str, Any], ...]
    """What to know of them, each with what the papers say of it."""
    warnings: tuple[Diagnostic, ...]
    """What a person should act on."""
    document: dict[str, Any] = field(repr=False, compare=False)
    """All that `mixdown survey --json` says."""
    page: str = field(repr=False, compare=False)
    """All of it as one page for a browser, HTML."""


@dataclass(frozen=True)
class Method:
    """A merge method."""

    name: str
    title: str
    source: str
    summary: str
    parameters: tuple[dict[str, Any], ...]
    document: dict[str, Any] = field(repr=False, compare=False)
    """All that `mixdown methods NAME --json` says."""


def _document(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def _size(size: int | str | None) -> str | None:
    return None if size is None else str(size)


def merge(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    set: Mapping[str, Any] | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    shard_size: int | str | None = None,
    force: bool = False,
    allow_nonfinite: bool = False,
    hash_inputs: bool = False,
    cache: bool = True,
    follow_links: bool = False,
    report: str | os.PathLike[str] | None = None,
    part: str | tuple[int, int] | None = None,
    progress: Progress = None,
) -> Merged:
    """Merges checkpoints as a recipe says, and writes the result to the folder `out`.

    `set` overrides values of the recipe by their paths; `follow_links` reads files that are links out of a
    model's folder, which is an error otherwise; `memory` and `shard_size` are bytes or texts such
    as `"2GB"`; without `threads` all processors work. With `part`, `"3/16"` or `(3, 16)`, one part of the
    output is made in a folder of its own within `out`; `assemble` joins all when they are there. A merge that
    was interrupted, by Ctrl-C too, goes on where it was when the same call comes again.

    **Errors.** `RecipeError` with all mistakes together, before anything is written; `MergeError` when
    data or disk are in the way.

    >>> merged = mixdown.merge(recipe, "merged", memory="1GB", set={"parameters.lambda": 0.5})
    >>> merged.out.name, merged.tensors
    ('merged', 3)
    """
    asked = {
        "recipe": request(recipe, set, follow_links),
        "out": os.fspath(out),
        "memory": _size(memory),
        "threads": threads,
        "device": device,
        "shard_size": _size(shard_size),
        "force": force,
        "allow_nonfinite": allow_nonfinite,
        "hash_inputs": hash_inputs,
        "cache": cache,
        "report": None if report is None else os.fspath(report),
        "part": _part(part),
    }
    with Listener(progress) as listener, told():
        done = json.loads(_mixdown.merge(json.dumps(asked), listener))
    return _merged(done)


def _part(part: str | tuple[int, int] | None) -> str | None:
    return part if part is None or isinstance(part, str) else "{}/{}".format(*part)


@dataclass(frozen=True)
class Assembled:
    """Parts that became one output."""

    out: Path
    """The folder."""
    parts: int | None
    """How many there were; none if the folder was a whole output already."""
    tensors: int | None
    """Tensors of the output."""
    bytes: int | None
    """Bytes of all tensors."""
    warnings: tuple[Diagnostic, ...]
    """What a person should know that no part alone tells."""


def assemble(
    folder: str | os.PathLike[str], *, force: bool = False, progress: Progress = None
) -> Assembled:
    """Joins the parts of an output that `merge` made with `part`, to the bytes of one run.

    The output takes the place of `folder`; what else is in the folder is removed with `force`, and an error
    otherwise.

    **Errors.** `MergeError` with all parts that are missing, repeated, damaged or of other merges.

    >>> for number in (1, 2):
    ...     part = mixdown.merge(recipe, "joined", part=(number, 2))
    >>> mixdown.assemble("joined").parts
    2
    """
    with Listener(progress) as listener, told():
        done = json.loads(_mixdown.assemble(os.fspath(folder), force, listener))
    return Assembled(
        out=Path(done["out"]),
        parts=done["parts"],
        tensors=done.get("tensors"),
        bytes=done.get("bytes"),
        warnings=tuple(Diagnostic.of(value) for value in done.get("warnings", ())),
    )


def _merged(done: dict[str, Any]) -> Merged:
    return Merged(
        out=Path(done["out"]),
        tensors=done.get("tensors"),
        tensors_reused=done.get("tensors_reused"),
        bytes=done.get("bytes"),
        seconds=done.get("seconds"),
        peak_bytes=done.get("peak_bytes"),
        warnings=tuple(Diagnostic.of(value) for value in done.get("warnings", ())),
        document=done,
    )


def check(
    recipe: Recipe, *, set: Mapping[str, Any] | None = None, progress: Progress = None
) -> Checked:
    """Finds all mistakes of a recipe, without reading weights.

    **Errors.** `RecipeError` with every mistake; `MergeError` where a model cannot be used.

    >>> mixdown.check(recipe).tensors
    3
    >>> try:
    ...     mixdown.check({**recipe, "method": "tiez"})
    ... except mixdown.RecipeError as error:
    ...     print(error.diagnostics[0].code, error.diagnostics[0].headline)
    E0207 there is no method `tiez`
    """
    with Listener(progress) as listener, told():
        found = json.loads(_mixdown.check(json.dumps(request(recipe, set)), listener))
    warnings = tuple(Diagnostic.of(value) for value in found["warnings"])
    return Checked(found["tensors"], found["models"], warnings)


def plan(
    recipe: Recipe,
    *,
    set: Mapping[str, Any] | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress = None,
) -> dict[str, Any]:
    """What a merge would do: `mixdown plan --json` as a dict.

    `["footprint"]` has bytes to read and write, and the memory at most.

    >>> mixdown.plan(recipe)["footprint"]["bytes_written"]
    216
    """
    asked = json.dumps(request(recipe, set))
    with Listener(progress) as listener, told():
        return _document(_mixdown.plan(asked, _size(memory), threads, listener))


def explain(
    recipe: Recipe, tensor: str, *, set: Mapping[str, Any] | None = None, progress: Progress = None
) -> dict[str, Any]:
    """How one tensor of the output is made, and why: `mixdown explain --json` as a dict.

    >>> mixdown.explain(recipe, "norm.weight")["tensor"]["shape"]
    [6]
    """
    with Listener(progress) as listener, told():
        return _document(_mixdown.explain(json.dumps(request(recipe, set)), tensor, listener))


def inspect(
    model: str | os.PathLike[str],
    *,
    tensors: str | None = None,
    follow_links: bool = False,
    progress: Progress = None,
) -> dict[str, Any]:
    """What a checkpoint holds: `mixdown inspect --json` as a dict; `tensors` is a pattern of names.

    >>> [tensor["name"] for tensor in mixdown.inspect("./base", tensors="layers.**")["tensors"]]
    ['layers.0.weight', 'layers.1.weight']
    """
    with Listener(progress) as listener, told():
        return _document(_mixdown.inspect(os.fspath(model), tensors, follow_links, listener))


def diff(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    tensors: str | None = None,
    threads: int | None = None,
    follow_links: bool = False,
    progress: Progress = None,
) -> dict[str, Any]:
    """How alike two checkpoints are, tensor by tensor: `mixdown diff --json` as a dict.

    >>> len(mixdown.diff("./base", "./a")["tensors"])
    3
    """
    pair = (os.fspath(first), os.fspath(second))
    with Listener(progress) as listener, told():
        return _document(_mixdown.diff(pair, tensors, threads, follow_links, listener))


def verify(
    folder: str | os.PathLike[str], *, threads: int | None = None, progress: Progress = None
) -> Verified:
    """Proves a merged checkpoint against its manifest. One at an address (`s3://`, `gs://`, `az://`,
    `https://`, `hf://`) is read where it lies.

    **Errors.** `MergeError` with all that is missing, different, or too much.

    >>> merged = mixdown.merge(recipe, "proven")
    >>> mixdown.verify(merged.out).tensors
    3
    """
    with Listener(progress) as listener, told():
        found = json.loads(_mixdown.verify(os.fspath(folder), threads, listener))
    return Verified(found["tensors"], found["bytes"], found["shards"], found["files"])


def search(
    recipe: Recipe,
    settings: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    set: Mapping[str, Any] | None = None,
    keep_candidates: bool = False,
    answers: str | os.PathLike[str] | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    progress: Progress = None,
) -> Searched:
    """Finds the value of a parameter whose merge answers best; `settings` is the file of `--with`."""
    beside = Path(sys.executable).parent
    path = os.environ.get("PATH", "").split(os.pathsep)
    asked = {
        "recipe": request(recipe, set),
        "settings": os.fspath(settings),
        "out": os.fspath(out),
        "keep_candidates": keep_candidates,
        "answers": None if answers is None else os.fspath(answers),
        "memory": _size(memory),
        "threads": threads,
        "device": device,
        "programs": [os.fspath(beside), *filter(None, path)],
    }
    with Listener(progress) as listener, told():
        found = json.loads(_mixdown.search(json.dumps(asked), listener))
    return Searched(Path(found["merged"]), found["chosen"], found["report"])


def extract(
    model: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rank: int,
    memory: int | str | None = None,
    threads: int | None = None,
    force: bool = False,
    follow_links: bool = False,
    progress: Progress = None,
) -> Merged:
    """Writes what a model adds to its base as a LoRA adapter of at most `rank` directions."""
    asked = {
        "model": os.fspath(model),
        "base": os.fspath(base),
        "rank": rank,
        "out": os.fspath(out),
        "memory": _size(memory),
        "threads": threads,
        "force": force,
        "follow_links": follow_links,
    }
    with Listener(progress) as listener, told():
        return _merged(json.loads(_mixdown.extract(json.dumps(asked), listener)))


def fuse(
    base: str | os.PathLike[str],
    adapters: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    scale: float | Sequence[float] = 1.0,
    dtype: str | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    force: bool = False,
    follow_links: bool = False,
    progress: Progress = None,
) -> Merged:
    """Adds one or several adapters to their base, each times its scale, and writes the model."""
    if isinstance(adapters, (str, os.PathLike)):
        adapters = [adapters]
    scales = [scale] * len(adapters) if isinstance(scale, (int, float)) else list(scale)
    asked = {
        "base": os.fspath(base),
        "adapters": [os.fspath(adapter) for adapter in adapters],
        "scales": scales,
        "dtype": dtype,
        "out": os.fspath(out),
        "memory": _size(memory),
        "threads": threads,
        "force": force,
        "follow_links": follow_links,
    }
    with Listener(progress) as listener, told():
        return _merged(json.loads(_mixdown.fuse(json.dumps(asked), listener)))


def convert(
    model: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str],
    *,
    library: str | None = None,
    scales: str | None = None,
    group: int | None = None,
    symmetric: bool = True,
    fit: str | None = None,
    dtype: str | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    shard_size: int | str | None = None,
    force: bool = False,
    follow_links: bool = False,
    report: str | os.PathLike[str] | None = None,
    progress: Progress = None,
) -> Merged:
    """Writes a model in another form: quantized, dequantized, in another type, or as GGUF.

    `to` is a form such as `"fp8"`, `"int4"`, `"nf4"` or `"q4_k_m"`, or a type such as `"bf16"`; `library` says
    whose files it is like, `scales` what shares a scale, `group` how many columns do. What the program's
    `convert --help` says of them holds here.

    >>> mixdown.convert("./a", "f16", "a-f16").tensors
    3
    """
    asked = {
        "model": os.fspath(model),
        "to": to,
        "library": library,
        "scales": scales,
        "group": group,
        "symmetric": symmetric,
        "fit": fit,
        "dtype": dtype,
        "out": os.fspath(out),
        "memory": _size(memory),
        "threads": threads,
        "shard_size": _size(shard_size),
        "force": force,
        "follow_links": follow_links,
        "report": None if report is None else os.fspath(report),
    }
    with Listener(progress) as listener, told():
        return _merged(json.loads(_mixdown.convert(json.dumps(asked), listener)))


def transplant(
    target: str | os.PathLike[str],
    donor: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    method: str = "omp",
    k: int = 64,
    cosine: bool = False,
    weight_scheme: str = "distance_proportional",
    subword_method: str = "mean",
    byte_match: str = "no",
    prefix_match: str = "no",
    magikarp: bool = False,
    noise: float = 0.0,
    scale: float = 1.0,
    seed: int = 0,
    memory: int | str | None = None,
    threads: int | None = None,
    shard_size: int | str | None = None,
    force: bool = False,
    follow_links: bool = False,
    progress: Progress = None,
) -> Merged:
    """Gives the model `target` the vocabulary of `donor`: tokenizer and rows of both embeddings.

    Tokens that both have keep the target's rows; rows of the others are made by `method` out of at most `k`
    common tokens. What the program's `transplant --help` says of the rest holds here.
    """
    asked = {
        "target": os.fspath(target),
        "donor": os.fspath(donor),
        "method": method,
        "k": k,
        "cosine": cosine,
        "weight_scheme": weight_scheme,
        "subword_method": subword_method,
        "byte_match": byte_match,
        "prefix_match": prefix_match,
        "magikarp": magikarp,
        "noise": noise,
        "scale": scale,
        "seed": seed,
        "out": os.fspath(out),
        "memory": _size(memory),
        "threads": threads,
        "shard_size": _size(shard_size),
        "force": force,
        "follow_links": follow_links,
    }
    with Listener(progress) as listener, told():
        return _merged(json.loads(_mixdown.transplant(json.dumps(asked), listener)))


def survey(
    base: str | os.PathLike[str],
    experts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    spectra: bool = True,
    memory: int | str | None = None,
    threads: int | None = None,
    follow_links: bool = False,
    progress: Progress = None,
) -> Surveyed:
    """Measures whether experts of a base can be merged, and why not, in one pass over the tensors.

    Experts are models, adapters on the base, or `"BASE+ADAPTER"`. Without `spectra` the directions of task
    vectors are left out, which cost most of the time.

    >>> found = mixdown.survey("./base", ["./a", "./b"])
    >>> [expert["name"] for expert in found.experts]
    ['a', 'b']
    >>> -1 <= found.pairs[0]["cosine"] <= 1
    True
    """
    if isinstance(experts, (str, os.PathLike)):
        experts = [experts]
    asked = {
        "base": os.fspath(base),
        "experts": [os.fspath(expert) for expert in experts],
        "spectra": spectra,
        "memory": _size(memory),
        "threads": threads,
        "follow_links": follow_links,
    }
    with Listener(progress) as listener, told():
        found = json.loads(_mixdown.survey(json.dumps(asked), listener))
    document = found["document"]
    return Surveyed(
        experts=tuple(document["experts"]),
        pairs=tuple(document["pairs"]),
        findings=tuple(document["findings"]),
        warnings=tuple(Diagnostic.of(value) for value in found["warnings"]),
        document=document,
        page=found["page"],
    )


def methods(beside: str | os.PathLike[str] | None = None) -> tuple[Method, ...]:
    """The merge methods, with those in `methods/` beside a recipe if one is named.

    >>> {method.name: method.title for method in mixdown.methods()}["ties"]
    'TIES-Merging'
    """
    with told():
        found = json.loads(_mixdown.methods(None, None if beside is None else os.fspath(beside)))
    return tuple(
        Method(
            name=value["method"],
            title=value["title"],
            source=value["source"],
            summary=value["summary"],
            parameters=tuple(value["parameters"]),
            document=value,
        )
        for value in found
    )
