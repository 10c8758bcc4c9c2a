#!/usr/bin/env bash
# Guess: eight bits are never worse than four.
# Instead: the scale of a block is a float16 that is the largest weight divided by 127 in Q8_0, but
#   by 8 in Q4_0. Where the largest weight is below 3.8e-6, float16 makes Q8_0's scale zero, and the
#   block with it; at weights of 1e-5 its subnormal steps already make Q8_0 the coarser of the two.
# Why it matters: rows of tokens that training never met, and differences of two models, are that
#   small. A task vector is not to be stored as Q8_0 without looking at its size first.
# Seen with gguf 0.19.0, numpy 2.4.6:
#   gguf 0.19.0 numpy 2.4.6
#   weights of 0.01: relative error Q8_0 0.005, Q4_0 0.086
#   weights of 0.0001: relative error Q8_0 0.011, Q4_0 0.086
#   weights of 1e-05: relative error Q8_0 0.095, Q4_0 0.086
#   weights of 1e-06: relative error Q8_0 0.999, Q4_0 0.105
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
normal = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
errors = {}
for size in (1e-2, 1e-4, 1e-5, 1e-6):
    weights = normal * np.float32(size)
    for kind in (Type.Q8_0, Type.Q4_0):
        back = quants.dequantize(quants.quantize(weights, kind), kind)
        errors[size, kind.name] = float(np.linalg.norm(back - weights) / np.linalg.norm(weights))
    print(f"weights of {size:g}: relative error Q8_0 {errors[size, 'Q8_0']:.3f}, Q4_0 {errors[size, 'Q4_0']:.3f}")
assert errors[1e-2, "Q8_0"] < 0.01 < 0.08 < errors[1e-2, "Q4_0"]
assert errors[1e-5, "Q8_0"] > errors[1e-5, "Q4_0"]
assert errors[1e-6, "Q8_0"] > 0.99 and errors[1e-6, "Q4_0"] < 0.11
PY
