#!/usr/bin/env bash
# Guess: merging a LoKr module into its weight adds what the module adds while it is trained.
# Instead: LyCORIS multiplies alpha / dim in twice when it merges, and once in the forward pass: with alpha at
#   half of dim a merged model has half of the trained change, with a quarter a quarter of it.
# Why it matters: a merge that follows the files (lokr_w1, lokr_w2_a, lokr_w2_b, alpha) differs from the library's
#   own merged model, and is the one that does what was trained. With alpha equal to dim nothing shows.
# Seen with lycoris-lora 4.1.3 and torch 2.15.0:
#   alpha 4 of dim 4: merged / forward = 1.0000
#   alpha 2 of dim 4: merged / forward = 0.5000
#   alpha 1 of dim 4: merged / forward = 0.2500
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export TMPDIR="$here"
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile lycoris-lora==4.1.3 torch==2.15.0
cd "$here"
venv/bin/python - <<'PY'
from importlib.metadata import version
import torch
from lycoris.modules.lokr import LokrModule
for name in ("lycoris-lora", "torch"):
    print(name, version(name))

SIDE, DIM = 64, 4
seen = []
for alpha in (4, 2, 1):
    torch.manual_seed(0)
    linear = torch.nn.Linear(SIDE, SIDE, bias=False)
    module = LokrModule("module", linear, lora_dim=DIM, alpha=alpha, factor=4)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    module.eval()
    with torch.no_grad():
        inputs = torch.eye(SIDE)
        trained = (module(inputs) - linear(inputs)).T
        merged = module.get_merged_weight()[0] - linear.weight
    share = (merged.norm() / trained.norm()).item()
    assert torch.allclose(merged, trained * share, atol=1e-5)
    seen.append(share)
    print(f"alpha {alpha} of dim {DIM}: merged / forward = {share:.4f}")
assert [round(share, 4) for share in seen] == [1.0, 0.5, 0.25]
PY
