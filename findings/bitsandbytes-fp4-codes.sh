#!/usr/bin/env bash
# Guess: bitsandbytes' "fp4" is the 4-bit float of MXFP4 and NVFP4 (E2M1: 0 .5 1 1.5 2 3 4 6),
#   packed low half first; a 4-bit weight stored with `quant_storage=bfloat16` holds numbers.
# Instead: the table is another one, of other values in another order (code 1 is 1/192, codes 2
#   and 3 are 2/3 and 1), the first element lies in the high half of the byte, and the "bfloat16"
#   tensor is the same bytes under another name, some of which read as huge numbers or NaN.
# Why it matters: decoding by the usual E2M1 table gives finite, wrong weights, and a program that
#   goes by the stored type averages packed codes as if they were weights.
# Seen with bitsandbytes 0.50.2, torch 2.15.0:
#   bitsandbytes 0.50.2
#   fp4 table: 0.0 0.0052 0.6667 1.0 0.3333 0.5 0.1667 0.25 0.0 -0.0052 -0.6667 -1.0 -0.3333 -0.5 -0.1667 -0.25
#   elements of codes 3 and 0 make the byte 0x30
#   stored as torch.bfloat16 (1024, 1) largest 3.16e+38 same bytes: True
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export TMPDIR="$here"
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile bitsandbytes==0.50.2 torch==2.15.0
cd "$here"
venv/bin/python - <<'PY'
from importlib.metadata import version
import torch
from bitsandbytes.functional import quantize_4bit
print("bitsandbytes", version("bitsandbytes"))
weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
weight[0, 0], weight[0, 1] = 9, 0  # the largest, code 3, and zero, code 0
packed, state = quantize_4bit(weight, quant_type="fp4", blocksize=64)
table = [round(value, 4) for value in state.code.tolist()]
print("fp4 table:", *table)
byte = packed.flatten()[0].item()
print(f"elements of codes 3 and 0 make the byte {byte:#04x}")
other, _ = quantize_4bit(weight, quant_type="fp4", blocksize=64, quant_storage=torch.bfloat16)
print("stored as", other.dtype, tuple(other.shape), "largest", f"{other.float().nan_to_num().abs().max():.3g}",
      "same bytes:", torch.equal(other.view(torch.uint8).flatten(), packed.flatten()))
e2m1 = [round(v / 6, 4) for v in (0, .5, 1, 1.5, 2, 3, 4, 6)]
assert table[:8] == [0, .0052, .6667, 1, .3333, .5, .1667, .25] and table[:8] != e2m1
assert byte == 0x30
assert torch.equal(other.view(torch.uint8).flatten(), packed.flatten()) and other.float().nan_to_num().abs().max() > 1e30
PY
