#!/usr/bin/env bash
# Guess: `add_weighted_adapter(["a"], [1.0], ...)` makes a copy of adapter a, and with two adapters
#   the sum of their updates.
# Instead: with an rsLoRA adapter in the first place, the combination gets alpha = rank, which is a
#   scale of one for plain LoRA, but keeps the flag of rsLoRA: its scale is sqrt(new rank).
#   A copy of rank 8 is 2.83 times as strong; `cat` of two of rank 8 is 4 times as strong.
# Why it matters: combined adapters break down or look "overcooked", weights are tuned to hide it,
#   and the right ones change whenever the rank does. Plain LoRA first in the list: no such factor.
# Seen with peft 0.21.2, torch 2.15.0:
#   peft 0.21.2
#   1.0 times the sum of the updates: cat of plain
#   2.828 times the sum of the updates: cat of stabilized
#   1.0 times the sum of the updates: cat of plain + stabilized
#   4.0 times the sum of the updates: cat of stabilized + plain
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export TMPDIR="$here"
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile peft==0.21.2 transformers==5.24.0 torch==2.15.0
cd "$here"
TRANSFORMERS_VERBOSITY=error venv/bin/python - <<'PY'
from importlib.metadata import version
import torch
from peft import LoraConfig, get_peft_model
print("peft", version("peft"))
torch.manual_seed(0)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(32, 32)
    def forward(self, x):
        return self.proj(x)

kind = lambda rs: LoraConfig(r=8, lora_alpha=8, use_rslora=rs, target_modules=["proj"], init_lora_weights=False)
model = get_peft_model(Model(), kind(True), "stabilized")
model.add_adapter("plain", kind(False))
delta = model.base_model.model.proj.get_delta_weight

def factor(members, how):
    name = "-".join(members + [how])
    model.add_weighted_adapter(members, [1.0] * len(members), name, combination_type=how)
    want = sum(delta(member) for member in members)
    got = delta(name)
    ratio = ((got * want).sum() / (want * want).sum()).item()
    assert (got - ratio * want).norm() < 1e-4 * got.norm()
    return round(ratio, 3)

got = {}
for members in (["plain"], ["stabilized"], ["plain", "stabilized"], ["stabilized", "plain"]):
    got[" + ".join(members)] = factor(members, "cat")
    print(f"{got[' + '.join(members)]} times the sum of the updates: cat of {' + '.join(members)}")
assert list(got.values()) == [1, 2.828, 1, 4], got
PY
