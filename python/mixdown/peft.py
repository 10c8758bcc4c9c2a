"""Adapters of PEFT: written from two models, and fused into their base."""

from __future__ import annotations

import os
from typing import Any, Sequence

import mixdown

from ._progress import Progress

extract = mixdown.extract
fuse = mixdown.fuse


def load(model: Any, adapter: str | os.PathLike[str], **options: Any) -> Any:
    """The model of transformers with an adapter that `extract` or a recipe wrote, by PEFT's own code."""
    import peft

    return peft.PeftModel.from_pretrained(model, os.fspath(adapter), **options)


def merge_adapters(
    base: str | os.PathLike[str],
    adapters: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    method: str = "task_arithmetic",
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    parameters: dict[str, Any] | None = None,
    progress: Progress = None,
    **options: Any,
) -> mixdown.Merged:
    """Merges adapters on one base by a method, and writes an adapter.

    Without `rank` the adapter holds the merge exactly where that is possible; other keywords are those of
    `mixdown.merge`.
    """
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    if len(weights) != len(adapters):
        raise ValueError(f"{len(adapters)} adapters have {len(weights)} weights")
    path = {"path": os.fspath(base)}
    models: dict[str, Any] = {"base": path}
    for number, (adapter, weight) in enumerate(zip(adapters, weights), 1):
        models[f"adapter_{number}"] = {
            **path,
            "adapter": {"path": os.fspath(adapter)},
            "parameters": {"weight": weight},
        }
    recipe: dict[str, Any] = {
        "mixdown": 1,
        "models": models,
        "base": "base",
        "method": method,
        "output": {"as": "adapter", **({} if rank is None else {"rank": rank})},
    }
    if parameters:
        recipe["parameters"] = parameters
    return mixdown.merge(recipe, out, progress=progress, **options)
