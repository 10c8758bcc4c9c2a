#!/usr/bin/env bash
# Guess: weights that are -1, 0 and 1 times a factor survive any form of four bits unchanged: three
#   values, sixteen codes.
# Instead: Q4_0's scale is the entry of largest magnitude, with its sign, divided by -8, and the codes
#   reach from -8 to 7. That entry comes back exactly; one of equal size and the other sign
#   comes back as 7/8 of itself (15/16 in Q5_0). Which sign is hurt depends on which stands first in each block.
# Why it matters: ternary models, and all whose blocks have twins of both signs (orthogonal or
#   Hadamard-rotated matrices), lose an eighth of half of their weights, scattered, so that no factor
#   repairs it. TQ2_0 keeps them, and Q8_0 but for one common factor, 0.99994, of its float16 scale.
# Seen with gguf 0.19.0, numpy 2.4.6:
#   gguf 0.19.0 numpy 2.4.6
#   Q4_0: 47.4% of the ones changed, values [-1.0, -0.875, -0.0, 0.875, 1.0]
#   Q5_0: 47.4% of the ones changed, values [-1.0, -0.9375, -0.0, 0.9375, 1.0]
#   Q8_0: 100.0% of the ones changed, values [-0.99993896484375, 0.0, 0.99993896484375]
#   TQ2_0: 0.0% of the ones changed, values [-1.0, 0.0, 1.0]
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q gguf==0.19.0 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
from importlib.metadata import version
import numpy as np
from gguf import GGMLQuantizationType as Type, quants
print("gguf", version("gguf"), "numpy", version("numpy"))
ternary = np.random.default_rng(0).integers(-1, 2, (64, 1024)).astype(np.float32)
wrong = {}
for kind in (Type.Q4_0, Type.Q5_0, Type.Q8_0, Type.TQ2_0):
    back = quants.dequantize(quants.quantize(ternary, kind), kind)
    wrong[kind.name] = float((back[ternary != 0] != ternary[ternary != 0]).mean())
    print(f"{kind.name}: {wrong[kind.name]:.1%} of the ones changed, values {sorted(set(back.flatten().tolist()))}")
assert .45 < wrong["Q4_0"] < .55 and .45 < wrong["Q5_0"] < .55 and wrong["TQ2_0"] == 0
PY
