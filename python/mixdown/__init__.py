"""Merges neural-network checkpoints.

A recipe says what goes in and how it is merged; it is a path, the text of a recipe, or a dict.

>>> import mixdown
>>> [method.name for method in mixdown.methods() if method.name == "ties"]
['ties']
"""

from . import _mixdown
from ._errors import Diagnostic, Interrupted, MergeError, MixdownError, RecipeError
from ._merge import (
    Assembled,
    Checked,
    Merged,
    Method,
    Searched,
    Surveyed,
    Verified,
    assemble,
    check,
    convert,
    diff,
    explain,
    extract,
    fuse,
    inspect,
    merge,
    methods,
    plan,
    search,
    survey,
    transplant,
    verify,
)
from ._push import push
from ._tensors import Checkpoint, TensorInfo, iter_tensors, merge_tensors, open

__version__: str = _mixdown.VERSION

__all__ = [
    "Assembled",
    "Checked",
    "Checkpoint",
    "Diagnostic",
    "Interrupted",
    "MergeError",
    "Merged",
    "Method",
    "MixdownError",
    "RecipeError",
    "Searched",
    "Surveyed",
    "TensorInfo",
    "Verified",
    "assemble",
    "check",
    "convert",
    "diff",
    "explain",
    "extract",
    "fuse",
    "inspect",
    "iter_tensors",
    "merge",
    "merge_tensors",
    "methods",
    "open",
    "plan",
    "push",
    "search",
    "survey",
    "transplant",
    "verify",
]
