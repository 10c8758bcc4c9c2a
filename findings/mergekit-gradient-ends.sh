#!/usr/bin/env bash
# Guess: a gradient `t: [0, 1]` runs from the bottom of the model to its top, so that the
#   final norm and the output layer, which come last, take the last value.
# Instead: everything outside the layers takes the first value, the final norm and lm_head too.
#   The last layer is wholly the other model, and what reads its output is wholly the base.
# Why it matters: the usual slerp recipes put 0 or 1 at the ends; the head of the other model
#   is then lost without a message. A filter for `lm_head` and `norm` is needed to get it.
#   Beside it: a filter is a substring, so `layers.1` is layer 1, 10 to 19, 100 to 199.
# Seen with mergekit 0.1.5, transformers 5.24.0:
#   mergekit 0.1.5
#   transformers 5.24.0
#   gradient from base (1) to other (2)
#     1.0 model.embed_tokens.weight
#     1.0 model.layers.0.mlp.up_proj.weight
#     1.5 model.layers.5.mlp.up_proj.weight
#     2.0 model.layers.10.mlp.up_proj.weight
#     1.0 model.norm.weight
#     1.0 lm_head.weight
#   filter `layers.1` reached the layers [1, 10]
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export TMPDIR="$here"
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile mergekit==0.1.5 transformers==5.24.0 torch==2.15.0
cd "$here"
TRANSFORMERS_VERBOSITY=error venv/bin/python - <<'PY'
from importlib.metadata import version
import torch, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
for package in ("mergekit", "transformers"):
    print(package, version(package))
config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=11,
                     num_attention_heads=2, num_key_value_heads=2)
for value, name in enumerate(("base", "other"), 1):
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.fill_(value)
    model.save_pretrained(name)

def merge(recipe, out):
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(recipe)), out, options)
    return {name: t.flatten()[0].item() for name, t in load_file(out + "/model.safetensors").items()}

mixed = merge("""
merge_method: linear
models:
  - {model: base, parameters: {weight: [1, 0]}}
  - {model: other, parameters: {weight: [0, 1]}}
dtype: float32
""", "mixed")
names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight",
         "model.layers.5.mlp.up_proj.weight", "model.layers.10.mlp.up_proj.weight",
         "model.norm.weight", "lm_head.weight"]
got = [mixed[name] for name in names]
print("gradient from base (1) to other (2)")
for name, value in zip(names, got):
    print(f"  {value:.1f} {name}")
scaled = merge("""
merge_method: passthrough
models:
  - {model: base, parameters: {scale: [{filter: layers.1, value: 0}, {value: 1}]}}
dtype: float32
""", "scaled")
zero = sorted({int(n.split(".")[2]) for n, v in scaled.items() if v == 0})
print("filter `layers.1` reached the layers", zero)
assert got == [1, 1, 1.5, 2, 1, 1], got
assert zero == [1, 10], zero
PY
