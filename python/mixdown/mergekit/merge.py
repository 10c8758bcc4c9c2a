"""A merge by mergekit's options."""

from __future__ import annotations

import os
import warnings
from typing import Any

import mixdown

from .._progress import MixdownWarning
from .config import MergeConfiguration

# Options that say how mergekit works, and nothing about the result: mixdown streams within its budget.
_OF_ITS_WORKINGS = {
    "async_write",
    "copy_tokenizer",
    "cuda",
    "device",
    "gpu_rich",
    "lazy_loader",
    "lazy_unpickle",
    "lora_merge_cache",
    "lora_merge_dtype",
    "low_cpu_memory",
    "multi_gpu",
    "num_threads",
    "out_shard_size",
    "quiet",
    "random_seed",
    "read_to_gpu",
    "safe_serialization",
    "transformers_cache",
    "trust_remote_code",
    "verbosity",
    "write_model_card",
}
_WITH_EFFECT = {"allow_crimes", "clone_tensors"}


class MergeOptions:
    """mergekit's options by keyword. `out_shard_size`, `random_seed`, `num_threads` and `quiet` have an
    effect; those that only say how mergekit works are accepted."""

    def __init__(self, **options: Any) -> None:
        unknown = sorted(set(options) - _OF_ITS_WORKINGS - _WITH_EFFECT)
        if unknown:
            raise TypeError(f"MergeOptions has no option {', '.join(unknown)}")
        self._options = options

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._options.get(name)


def run_merge(
    merge_config: MergeConfiguration | dict[str, Any],
    out_path: str | os.PathLike[str],
    options: MergeOptions | None = None,
    config_source: str | None = None,
) -> mixdown.Merged:
    """Merges as a configuration says, into the folder `out_path`, which is replaced if it is there.

    **Errors.** `mixdown.RecipeError` with all mistakes of the configuration, `mixdown.MergeError`.
    """
    options = options or MergeOptions()
    config = MergeConfiguration.model_validate(merge_config)
    text = config_source if config_source is not None else config.to_yaml()
    overrides = {}
    if options.random_seed is not None:
        overrides["seed"] = options.random_seed
    if options.trust_remote_code:
        warnings.warn("`trust_remote_code` has no effect: no code of a model is run", MixdownWarning, 2)
    return mixdown.merge(
        text if "\n" in text else text + "\n",
        out_path,
        set=overrides,
        shard_size=options.out_shard_size,
        threads=options.num_threads,
        force=True,
        progress=False if options.quiet else None,
    )
