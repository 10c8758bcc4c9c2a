"""Tensors that Python holds: merged without files, and read lazily from any checkpoint."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

from . import _mixdown
from ._errors import told
from ._progress import Listener, Progress
from ._recipe import Recipe, request

# Names of types as files of safetensors have them, with the words of numpy and torch.
_TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_NAMES = {word: name for name, word in _TYPES.items()}

Described = tuple[str, str, list[int], int, int]


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint says of a tensor."""

    name: str
    dtype: str
    """In the words of torch: `bfloat16`."""
    shape: tuple[int, ...]


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _described(where: str, name: str, value: Any, kept: list[Any]) -> Described:
    """Type, shape and place of an array; what must live as long as the merge goes into `kept`."""
    place = f"`{name}` of `{where}`"
    if _is_torch(value):
        word = str(value.dtype).removeprefix("torch.")
        if value.device.type != "cpu":
            raise ValueError(f"{place} is on {value.device}; move it with `.cpu()`")
        if not value.is_contiguous():
            raise ValueError(f"{place} is not contiguous; write `.contiguous()`")
        tensor = value.detach()
        kept.append(tensor)
        shape, bytes_, address = list(tensor.shape), tensor.numel() * tensor.element_size(), tensor.data_ptr()
    elif hasattr(value, "__array_interface__"):
        word = value.dtype.name
        if not value.flags.c_contiguous:
            raise ValueError(f"{place} is not contiguous; write `numpy.ascontiguousarray`")
        if value.dtype.byteorder == ">":
            raise ValueError(f"{place} is big-endian; write `.astype(value.dtype.newbyteorder('<'))`")
        kept.append(value)
        shape, bytes_, address = list(value.shape), value.nbytes, value.ctypes.data
    else:
        raise TypeError(f"{place} is no tensor of numpy or torch, found {type(value).__name__}")
    if word not in _NAMES:
        raise TypeError(f"{place} has the type {word}, which checkpoints do not hold")
    return name, _NAMES[word], shape, address, bytes_


def _items(model: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(model, Mapping):
        return iter(model.items())
    if hasattr(model, "get_tensor") and hasattr(model, "keys"):
        # A handle of safetensors; its tensors are views of the mapped file.
        return ((name, model.get_tensor(name)) for name in model.keys())
    raise TypeError(f"a model is a dict or a handle of safetensors, found {type(model).__name__}")


def iter_tensors(
    recipe: Recipe,
    models: Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
) -> Iterator[tuple[str, Any]]:
    """Merges tensors, and yields name and tensor of each as soon as it is made, in no fixed order.

    `models` gives each model that the recipe refers to by name: a dict of numpy arrays or torch tensors,
    contiguous and on the processor, or a handle of safetensors. Nothing is copied on the way in. What
    comes out is torch where the first tensor that goes in is, else numpy; tensors of types that numpy
    lacks need torch. `configs` are the models' config.json, which some rules ask for.

    Beside `memory`, the tensors that are being made are held.

    **Errors.** `RecipeError` and `MergeError` as `merge`; `TypeError` and `ValueError` for tensors that
    cannot be read, with their names.

    >>> tensors = {name: mixdown.open(name) for name in ("./base", "./a", "./b")}
    >>> models = {name: dict(model) for name, model in tensors.items()}
    >>> sorted(name for name, tensor in mixdown.iter_tensors(recipe, models))
    ['layers.0.weight', 'layers.1.weight', 'norm.weight']
    """
    kept: list[Any] = []
    given = []
    for model, tensors in models.items():
        described = [_described(model, name, value, kept) for name, value in _items(tensors)]
        config = (configs or {}).get(model)
        given.append((model, None if config is None else json.dumps(dict(config)), described))
    asked = json.dumps(request(recipe, set))
    size = None if memory is None else str(memory)
    with told():
        merging = _mixdown.merge_tensors(asked, given, size, threads, kept)
    wants_torch = bool(kept) and _is_torch(kept[0])
    return _taken(merging, wants_torch)


def _taken(merging: Any, wants_torch: bool) -> Iterator[tuple[str, Any]]:
    try:
        while True:
            with told():
                found = next(merging, None)
            if found is None:
                return
            name, dtype, shape, data = found
            yield name, _tensor(dtype, shape, _held(data), wants_torch)
    finally:
        merging.close()


def merge_tensors(
    recipe: Recipe,
    models: Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Merges tensors without files: the dict of `iter_tensors`, sorted by name.

    >>> import numpy
    >>> one, two = ({"w": numpy.full((2, 2), value, "float32")} for value in (1, 4))
    >>> halves = {"merge_method": "linear", "parameters": {"weight": 1},
    ...           "models": [{"model": "one"}, {"model": "two"}]}
    >>> mixdown.merge_tensors(halves, {"one": one, "two": two})["w"].tolist()
    [[2.5, 2.5], [2.5, 2.5]]
    """
    found = iter_tensors(
        recipe, models, set=set, configs=configs, memory=memory, threads=threads
    )
    return dict(sorted(found, key=lambda item: item[0]))


def _held(made: _mixdown.Made) -> Any:
    """The bytes of a tensor that was made, as a buffer; it and what lies on it keep them alive."""
    address, count = made.place()
    if count == 0:
        return bytearray()
    buffer = (ctypes.c_ubyte * count).from_address(address)
    setattr(buffer, "made", made)
    return buffer


def _tensor(dtype: str, shape: Sequence[int], data: Any, wants_torch: bool) -> Any:
    word = _TYPES[dtype]
    if wants_torch:
        import torch

        if len(data) == 0:
            return torch.empty(tuple(shape), dtype=getattr(torch, word))
        return torch.frombuffer(data, dtype=getattr(torch, word)).reshape(tuple(shape))
    import numpy

    try:
        kind = numpy.dtype(word)
    except TypeError:
        raise TypeError(f"numpy has no type {word}; give and take tensors of torch") from None
    return numpy.frombuffer(data, dtype=kind).reshape(tuple(shape))


class Checkpoint(Mapping[str, Any]):
    """A model on disk or at the hub: names at once, tensors when they are asked for."""

    def __init__(self, opened: Any, library: str) -> None:
        self._opened = opened
        self._library = library
        self._info = {
            name: TensorInfo(name, _TYPES[dtype] if dtype in _TYPES else dtype, tuple(shape))
            for name, dtype, shape in opened.tensors()
        }
        self._names = {name: dtype for name, dtype, _ in opened.tensors()}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name, type and shape of every tensor, without reading it."""
        return self._info

    @property
    def config(self) -> dict[str, Any] | None:
        """Its config.json, if there is one."""
        text = self._opened.config()
        return None if text is None else json.loads(text)

    def __getitem__(self, name: str) -> Any:
        """Reads a tensor."""
        with told():
            data = self._opened.read(name)
        info = self._info[name]
        return _tensor(self._names[name], info.shape, data, self._library == "torch")

    def __iter__(self) -> Iterator[str]:
        return iter(self._info)

    def __len__(self) -> int:
        return len(self._info)


def open(
    model: str | os.PathLike[str],
    *,
    library: str = "numpy",
    follow_links: bool = False,
    progress: Progress = None,
) -> Checkpoint:
    """Opens a model of any format; `library` is `"numpy"` or `"torch"`.

    **Errors.** `RecipeError` when it is nowhere, `MergeError` when it cannot be read.

    >>> model = mixdown.open("./base")
    >>> model.tensors["norm.weight"]
    TensorInfo(name='norm.weight', dtype='float32', shape=(6,))
    >>> model["norm.weight"].shape
    (6,)
    """
    if library not in ("numpy", "torch"):
        raise ValueError(f"`library` is `numpy` or `torch`, found {library!r}")
    with Listener(progress) as listener, told():
        return Checkpoint(_mixdown.open(os.fspath(model), follow_links, listener), library)
