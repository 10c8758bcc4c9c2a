#!/usr/bin/env bash
# Guess: nvfp4, with a scale for each 16 weights in the place of mxfp4's 32, is the more exact form, and
#   neither cares about the overall size of a matrix.
# Instead: without a `global_scale`, which is not given by default, a group's scale is an E4M3 number,
#   and these end at 0.002. Groups whose largest weight is below about 0.006 become zeros, without a
#   word, and those below 0.09 get coarse scales.
# Why it matters: many models start from a standard deviation of 0.02, already on the slope, and task
#   vectors, ten or a hundred times smaller, vanish altogether. Other writers of NVFP4 keep a second
#   scale for the whole tensor for that reason; in mlx the caller has to compute and keep it.
# Seen with mlx 0.32.4:
#   mlx 0.32.4
#   weights of 1: relative error nvfp4 0.094, mxfp4 0.116
#   weights of 0.02: relative error nvfp4 0.103, mxfp4 0.118
#   weights of 0.01: relative error nvfp4 0.126, mxfp4 0.118
#   weights of 0.002: relative error nvfp4 0.955, mxfp4 0.116
#   weights of 0.001: relative error nvfp4 1.000, mxfp4 0.116
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q 'mlx[cpu]==0.32.4' numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
from importlib.metadata import version
import mlx.core as mx, numpy as np
print("mlx", version("mlx"))
normal = mx.array(np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32))
errors = {}
for size in (1, .02, .01, .002, .001):
    weights = normal * size
    for mode in ("nvfp4", "mxfp4"):
        back = mx.dequantize(*mx.quantize(weights, mode=mode), mode=mode).astype(mx.float32)
        errors[size, mode] = float(mx.linalg.norm(back - weights) / mx.linalg.norm(weights))
    print(f"weights of {size:g}: relative error nvfp4 {errors[size, 'nvfp4']:.3f}, mxfp4 {errors[size, 'mxfp4']:.3f}")
assert errors[1, "nvfp4"] < .1 < errors[1, "mxfp4"]
assert errors[.01, "nvfp4"] > errors[.01, "mxfp4"]
assert errors[.001, "nvfp4"] == 1 and errors[.001, "mxfp4"] < .13
PY
