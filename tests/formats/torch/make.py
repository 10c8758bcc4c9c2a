"""Writes the files of this folder with torch: `python make.py`, with torch 2.15.0 here.

`old.bin` is the same as `plain.bin`, written by torch 1.13.1: `python make.py old`.
"""

import collections
import sys

import torch


def plain():
    return {
        "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 2,
        "b.double": torch.tensor([1.5, -2.0], dtype=torch.float64),
        "c.half": torch.tensor([0.5, 1.0, 65504.0], dtype=torch.float16),
        "d.long": torch.tensor([-1, 2**40], dtype=torch.int64),
        "e.int": torch.tensor([-7], dtype=torch.int32),
        "f.short": torch.tensor([-8], dtype=torch.int16),
        "g.char": torch.tensor([-9], dtype=torch.int8),
        "h.byte": torch.tensor([200], dtype=torch.uint8),
        "i.bool": torch.tensor([True, False]),
        "j.scalar": torch.tensor(3.25),
        "k.empty": torch.zeros(0, 4),
    }


if sys.argv[1:] == ["old"]:
    torch.save(plain(), "old.bin")
    sys.exit()

torch.save(plain(), "plain.bin")
torch.save(plain(), "legacy.bin", _use_new_zipfile_serialization=False)

weight = torch.arange(4).to(torch.bfloat16)
torch.save({"weight": weight, "negative": -weight}, "bf16.bin")

small = torch.tensor([0.5, 1.0, -2.0])
torch.save(
    {
        "e4m3": small.to(torch.float8_e4m3fn),
        "e5m2": small.to(torch.float8_e5m2),
        "u16": torch.tensor([1, 65535], dtype=torch.uint16),
        "u32": torch.tensor([1, 2**32 - 1], dtype=torch.uint32),
        "u64": torch.tensor([1, 2**63], dtype=torch.uint64),
    },
    "untyped.bin",
)

# Two names of one tensor, and parts of one storage.
shared = torch.arange(8, dtype=torch.float32)
tied = {"embed": shared.reshape(4, 2), "head": shared.reshape(4, 2), "tail": shared[6:]}
torch.save(tied, "tied.bin")
torch.save(tied, "tied_legacy.bin", _use_new_zipfile_serialization=False)

# A module's state with its `_metadata`, among what trainers write beside it.
module = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1))
state = module.state_dict()
for number, name in enumerate(state):
    state[name] = torch.full_like(state[name], number + 1)
torch.save(
    {
        "epoch": 3,
        "lr": 0.125,
        "notes": ["a", ("b", None), {"c": True}],
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "size": torch.Size([2, 1]),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "state_dict": state,
    },
    "nested.bin",
)
torch.save(collections.OrderedDict(w=torch.nn.Parameter(torch.ones(2))), "parameter.bin")
torch.save(plain(), "protocol4.bin", pickle_protocol=4)

grid = torch.arange(6, dtype=torch.float32).reshape(2, 3)
torch.save({"good": grid, "turned": grid.t()}, "transposed.bin")
# Strides of dimensions of one element mean nothing.
torch.save({"row": grid.t()[:1].t()[:1], "column": grid[:, None][:1]}, "trivial_strides.bin")
torch.save({"wide": torch.ones(1).expand(3)}, "expanded.bin")
torch.save({"z": torch.tensor([1 + 2j])}, "complex.bin")
torch.save({"z": torch.tensor([1 + 2j]).conj()}, "conjugate.bin")
torch.save(torch.nn.Linear(1, 1), "module.bin")
torch.save({"x": torch.ones(2).to_sparse()}, "sparse.bin")
torch.save({"x": torch.zeros(2).numpy()}, "numpy.bin")
torch.save(torch.ones(2), "single.bin")
torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), "script.bin")
