"""Merged models in transformers, without a folder of one's own."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any, Mapping

import mixdown

from ._progress import Progress
from ._recipe import Recipe


def load(
    recipe: Recipe,
    *,
    set: Mapping[str, Any] | None = None,
    model_class: Any = None,
    folder: str | os.PathLike[str] | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress = None,
    **options: Any,
) -> Any:
    """Merges and gives the model of transformers.

    The merge goes through a temporary folder on the disk of `folder`, or of the system's temporary files,
    which is removed before the model comes back; transformers reads it with its own code, so that names,
    ties and types are what it expects. `model_class` is `AutoModelForCausalLM` by default; other keywords
    go to its `from_pretrained`.

    **Errors.** As `mixdown.merge`, and what transformers raises.
    """
    import transformers

    model_class = model_class or transformers.AutoModelForCausalLM
    options.setdefault("dtype", "auto")
    place = tempfile.mkdtemp(prefix="mixdown-", dir=folder)
    try:
        out = os.path.join(place, "model")
        mixdown.merge(
            recipe, out, set=set, memory=memory, threads=threads, cache=True, progress=progress
        )
        model = model_class.from_pretrained(out, **options)
        # What is mapped from the files must not go with them.
        return _owned(model)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _owned(model: Any) -> Any:
    if os.name == "nt":
        # An open mapping keeps the file from being removed there.
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone()
    return model
