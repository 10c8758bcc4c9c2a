"""Recipes as callers give them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Mapping, Union

Recipe = Union[str, "os.PathLike[str]", Mapping[str, Any]]
"""A path, the text of a recipe, or a dict."""


def _of_dict(value: Any, path: str = "recipe") -> Any:
    """The same with keys and values that YAML has; the path to what has no form there is told."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path}: a key is a string, found {key!r}")
        return {key: _of_dict(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_of_dict(item, f"{path}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        if isinstance(value, float) and value - value != 0:
            raise ValueError(f"{path}: a recipe has no number {value!r}")
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return _of_dict(value.item(), path)
    raise TypeError(f"{path}: a recipe has no value of the type {type(value).__name__}")


def request(
    recipe: Recipe, overrides: Mapping[str, Any] | None = None, follow_links: bool = False
) -> dict[str, Any]:
    """What the extension takes for a recipe and its overrides."""
    pairs = [[path, _scalar(value)] for path, value in (overrides or {}).items()]
    rest = {"set": pairs, "follow_links": follow_links}
    if isinstance(recipe, Mapping):
        # JSON is YAML, whatever stands in it.
        text = json.dumps(_of_dict(recipe), ensure_ascii=False, indent=1)
        return {"path": "recipe", "text": text, **rest}
    if isinstance(recipe, str) and "\n" in recipe:
        return {"path": "recipe", "text": recipe, **rest}
    if isinstance(recipe, (str, os.PathLike)):
        return {"path": os.fspath(Path(recipe)), **rest}
    raise TypeError(f"a recipe is a path, a text or a dict, found {type(recipe).__name__}")


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_of_dict(value, "set"))
