#!/usr/bin/env bash
# Guess: MXFP4 is one standard (32 codes E2M1, one scale E8M0), so that gguf and mlx store the
#   same block as the same bytes, and the same weights as the same block.
# Instead: neither. A byte of mlx holds elements 2k (low half) and 2k+1, as the published gpt-oss
#   files do; a byte of gguf holds elements k and k + 16. And gguf makes the scale from
#   the largest weight rounded down to a power of two, and cuts what is then above code 6,
#   whereas mlx takes the nearer scale: 7.9 becomes 6 in one and 8 in the other.
# Why it matters: bytes copied from one to the other decode without an error into weights in another
#   order, and the largest weights of a block can differ by a quarter between "the same" models.
# Seen with gguf 0.19.0, mlx 0.32.4:
#   gguf 0.19.0 mlx 0.32.4
#   gguf 11223344556677001122334455667700
#   mlx  21436507214365072143650721436507
#   mlx's bytes read as gguf: 0.5 1.5 3.0 6.0 0.5 1.5 3.0 6.0 0.5 1.5 ...
#   7.9 and 4 become 6.0 4.0 in gguf and 8.0 4.0 in mlx
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q gguf==0.19.0 'mlx[cpu]==0.32.4' numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
from importlib.metadata import version
import mlx.core as mx, numpy as np
from gguf import GGMLQuantizationType as Type, quants
print("gguf", version("gguf"), "mlx", version("mlx"))

def by_gguf(row):
    block = quants.quantize(row[None], Type.MXFP4)
    return block[0, 1:], quants.dequantize(block, Type.MXFP4)[0]

def by_mlx(row):
    codes, scales = mx.quantize(mx.array(row[None]), mode="mxfp4")
    back = mx.dequantize(codes, scales, mode="mxfp4").astype(mx.float32)
    return np.array(codes).view(np.uint8)[0], np.array(back)[0]

row = np.tile(np.array([.5, 1, 1.5, 2, 3, 4, 6, 0], np.float32), 4)
(a, x), (b, y) = by_gguf(row), by_mlx(row)
print("gguf", a.tobytes().hex())
print("mlx ", b.tobytes().hex())
moved = quants.dequantize(np.concatenate([[np.uint8(127)], b])[None], Type.MXFP4)[0]
print("mlx's bytes read as gguf:", *moved[:10].tolist(), "...")
assert (x == row).all() and (y == row).all() and (a != b).any()
assert (moved == np.concatenate([row[::2], row[1::2]])).all()
peak = np.zeros(32, np.float32)
peak[:2] = 7.9, 4
big = by_gguf(peak)[1][:2].tolist(), by_mlx(peak)[1][:2].tolist()
print("7.9 and 4 become", *big[0], "in gguf and", *big[1], "in mlx")
assert big == ([6, 4], [8, 4]), big
PY
