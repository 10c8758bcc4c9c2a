"""mergekit's names for what mixdown does, for programs that were written for them.

`from mixdown.mergekit import MergeConfiguration, MergeOptions, run_merge` takes the place of the same
import from mergekit. A library that imports mergekit itself, as TRL's merge callback does, runs after
`install()`.
"""

from __future__ import annotations

import importlib.machinery
import sys

from .config import MergeConfiguration
from .merge import MergeOptions, run_merge

__all__ = ["MergeConfiguration", "MergeOptions", "install", "run_merge"]


def install() -> None:
    """Lets `import mergekit`, `mergekit.config` and `mergekit.merge` find these modules.

    **Errors.** `ImportError` when mergekit itself was imported before: two of one name cannot be.
    """
    from . import config, merge

    found = sys.modules.get("mergekit")
    if found is not None and found is not sys.modules[__name__]:
        raise ImportError("mergekit itself is imported already; call `install()` before that")
    for name, module in {
        "mergekit": sys.modules[__name__],
        "mergekit.config": config,
        "mergekit.merge": merge,
    }.items():
        sys.modules[name] = module
    # Libraries ask for the module's specification to learn whether it is there.
    for name in ("mergekit", "mergekit.config", "mergekit.merge"):
        module = sys.modules[name]
        if module.__spec__ is None:
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
