#!/usr/bin/env bash
# Guess: what `safetensors.numpy` writes it reads back, and `load` of a file's bytes gives what
#   `load_file` gives for the file.
# Instead: it writes bfloat16 and float8 arrays of ml_dtypes as BF16 and F8_E4M3. `load_file` then
#   gives bfloat16, but `load` of the same bytes raises KeyError, and float8 is read back by neither.
# Why it matters: bytes from an archive, a cache or a network are read with `load`, and nearly every
#   checkpoint is BF16. A quantizing script in numpy writes fp8 files that its own test cannot read;
#   the files are sound.
# Seen with safetensors 0.8.0, ml_dtypes 0.6.0, numpy 2.4.6:
#   safetensors 0.8.0
#   ml_dtypes 0.6.0
#   numpy 2.4.6
#   float32: load_file float32, load float32
#   bfloat16: load_file bfloat16, load KeyError
#   float8_e4m3fn: load_file AttributeError, load KeyError
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q safetensors==0.8.0 ml_dtypes==0.6.0 numpy==2.4.6
cd "$here"
venv/bin/python - <<'PY'
from importlib.metadata import version
import ml_dtypes, numpy as np
from safetensors.numpy import load, load_file, save_file
for package in ("safetensors", "ml_dtypes", "numpy"):
    print(package, version(package))

def attempt(read, source):
    try:
        return str(read(source)["w"].dtype)
    except (KeyError, AttributeError) as error:
        return type(error).__name__

got = {}
for kind in ("float32", "bfloat16", "float8_e4m3fn"):
    dtype = getattr(ml_dtypes, kind, None) or np.dtype(kind)
    save_file({"w": np.array([1, 2, .5], np.float32).astype(dtype)}, "w.safetensors")
    with open("w.safetensors", "rb") as file:
        got[kind] = attempt(load_file, "w.safetensors"), attempt(load, file.read())
    print(f"{kind}: load_file {got[kind][0]}, load {got[kind][1]}")
assert got["float32"] == ("float32", "float32")
assert got["bfloat16"] == ("bfloat16", "KeyError")
assert got["float8_e4m3fn"] == ("AttributeError", "KeyError")
PY
