#!/usr/bin/env bash
# Guess: f64 to bfloat16 is one rounding to nearest, ties to even, as f64 to float16 is in numpy.
# Instead: ml_dtypes goes through f32. What lies just above the middle of two bfloat16 numbers is
#   rounded onto the middle first, and from there to even, which is down for every other middle.
# Why it matters: a merge computed in f64 "to round only once" rounds twice. Its result then differs
#   by a unit in the last place from one that rounds once, wherever a formula gives middles plus a
#   little, as a mean of two bfloat16 models with factors that are not quite 1/2: half of the
#   middles are wrong there, a quarter of all weights.
# Seen with ml_dtypes 0.6.0, numpy 2.4.6:
#   ml_dtypes 0.6.0 numpy 2.4.6
#   1 + 2^-8 + 2^-30 lies above the middle of 1 and 1.0078125
#   as bfloat16: 1.0
#   the same with float16's middle, 1 + 2^-11 + 2^-30: 1.0009765625
#   0.50000001 a + 0.49999999 b of bfloat16 weights in [1, 2): 25.2% differ from one rounding
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q ml_dtypes==0.6.0 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
from importlib.metadata import version
import ml_dtypes, numpy as np
print("ml_dtypes", version("ml_dtypes"), "numpy", version("numpy"))
value = 1 + 2.0**-8 + 2.0**-30
print(f"1 + 2^-8 + 2^-30 lies above the middle of 1 and {1 + 2.0**-7}")
got = float(np.array(value).astype(ml_dtypes.bfloat16))
print("as bfloat16:", got)
half = float(np.array(1 + 2.0**-11 + 2.0**-30).astype(np.float16))
print("the same with float16's middle, 1 + 2^-11 + 2^-30:", half)

def once(values):
    """f64 to bfloat16 with one rounding, for ordinary numbers."""
    bits = values.view(np.uint64)
    return ((bits + np.uint64((1 << 44) - 1) + (bits >> np.uint64(45) & np.uint64(1))) >> np.uint64(45) << np.uint64(45)).view(np.float64)

rng = np.random.default_rng(0)
a, b = (rng.integers(0x3F80, 0x4000, 100_000).astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64) for _ in "ab")
mean = .50000001 * a + (1 - .50000001) * b
other = (mean.astype(ml_dtypes.bfloat16).astype(np.float64) != once(mean)).mean()
print(f"0.50000001 a + 0.49999999 b of bfloat16 weights in [1, 2): {other:.1%} differ from one rounding")
assert got == 1.0 and half > 1.0 and once(np.array([value]))[0] == 1 + 2.0**-7
assert .1 < other < .4
PY
