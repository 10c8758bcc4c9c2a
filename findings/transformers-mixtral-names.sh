#!/usr/bin/env bash
# Guess: the names in `state_dict()` are those in the file, or at least the same model saved
#   twice by one version has the same names both times.
# Instead: a Mixtral has fused experts in memory, and they are written one by one under the names
#   of 2023 when the model was made from a config, but fused when it was loaded from a fused file.
#   Both load without a message. The two files hold equal models and share no name of an expert.
# Why it matters: a merge by names of two such files finds no expert in common, and a filter
#   written for what `state_dict()` shows matches nothing in the file.
# Seen with transformers 5.24.0:
#   transformers 5.24.0
#   in memory: mlp.experts.down_proj mlp.experts.gate_up_proj
#   saved: block_sparse_moe.experts.0.w1.weight block_sparse_moe.experts.0.w2.weight block_sparse_moe.experts.0.w3.weight block_sparse_moe.experts.1.w1.weight block_sparse_moe.experts.1.w2.weight block_sparse_moe.experts.1.w3.weight
#   saved after loading a fused file: mlp.experts.down_proj mlp.experts.gate_up_proj
#   both files load as the same model: True
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export TMPDIR="$here"
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile transformers==5.24.0 torch==2.15.0
cd "$here"
TRANSFORMERS_VERBOSITY=error venv/bin/python - <<'PY'
from importlib.metadata import version
import os, torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM
print("transformers", version("transformers"))
model = MixtralForCausalLM(MixtralConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                                         num_attention_heads=2, num_key_value_heads=2, num_local_experts=2))
memory = model.state_dict()
experts = lambda names: sorted(n.removeprefix("model.layers.0.") for n in names if "expert" in n)
model.save_pretrained("one")
one = load_file("one/model.safetensors")
os.mkdir("fused")
model.config.save_pretrained("fused")
save_file({name: tensor.clone() for name, tensor in memory.items()}, "fused/model.safetensors", metadata={"format": "pt"})
again, info = MixtralForCausalLM.from_pretrained("fused", output_loading_info=True)
again.save_pretrained("two")
two = load_file("two/model.safetensors")
print("in memory:", *experts(memory))
print("saved:", *experts(one))
print("saved after loading a fused file:", *experts(two))
first = MixtralForCausalLM.from_pretrained("one").state_dict()
second = MixtralForCausalLM.from_pretrained("two").state_dict()
equal = all(torch.equal(first[name], second[name]) for name in memory)
print("both files load as the same model:", equal)
assert equal and not info["missing_keys"] and not info["unexpected_keys"]
assert len(experts(one)) == 6 and experts(two) == experts(memory) and not set(experts(one)) & set(experts(two))
PY
