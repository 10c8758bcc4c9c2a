#!/usr/bin/env bash
# Guess: what compressed-tensors writes, transformers loads with it: a packed int4 model with zero points
#   (`symmetric: false`) like one without.
# Instead: `from_pretrained` raises. The zero points are packed in the file, eight rows to a word, and the
#   model that is built for them expects one for each row.
# Why it matters: asymmetric int4 folders are for vLLM alone; who tries them with transformers first, or wants
#   logits of both, takes symmetric codes.
# Seen with transformers 5.24.0 and compressed-tensors 0.20.1:
#   symmetric: zero points None, loads
#   asymmetric: zero points [8, 2], RuntimeError
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export TMPDIR="$here"
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile transformers==5.24.0 compressed-tensors==0.20.1 torch==2.15.0
cd "$here"
TRANSFORMERS_VERBOSITY=error venv/bin/python - <<'PY'
from importlib.metadata import version
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
for name in ("transformers", "compressed-tensors"):
    print(name, version(name))

def save(folder, symmetric):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                                         num_attention_heads=2)).to(torch.bfloat16)
    weights = dict(num_bits=4, type="int", strategy="group", group_size=32, symmetric=symmetric)
    config = QuantizationConfig(config_groups={"group_0": dict(targets=["Linear"], weights=weights)},
                                ignore=["lm_head"], format="pack-quantized", quantization_status="frozen")
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data.fill_(0.01)
            if hasattr(module, "weight_zero_point"):
                module.weight_zero_point.data.fill_(1)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        name = "model.layers.0.self_attn.q_proj.weight_zero_point"
        return list(file.get_slice(name).get_shape()) if name in file.keys() else None

def load(folder):
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except Exception as error:
        return type(error).__name__
    return "loads"

seen = []
for kind, symmetric in [("symmetric", True), ("asymmetric", False)]:
    shape = save(kind, symmetric)
    seen.append(load(kind))
    print(f"{kind}: zero points {shape}, {seen[-1]}")
assert seen == ["loads", "RuntimeError"]
PY
