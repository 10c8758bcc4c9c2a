#!/usr/bin/env bash
# Guess: SCE weights each model by the energy of its task vector, a ratio, so that scaling all
#   task vectors by one factor scales the result by that factor and nothing else.
# Instead: where the mean squares of a tensor's task vectors add up to less than 1e-6, all weights
#   become equal. Nothing tells so.
# Why it matters: fine-tunes commonly move weights by less than 1e-3, so the step that names the
#   method is switched off, tensor by tensor, and a model that hardly changed counts as much as one
#   that changed ten times as far.
# Seen with mergekit 0.1.5:
#   mergekit 0.1.5
#   task vectors of 0.01 and 0.1: the larger has the weight 0.99
#   task vectors of 0.001 and 0.01: the larger has the weight 0.99
#   task vectors of 0.0001 and 0.001: the larger has the weight 0.99
#   task vectors of 5e-05 and 0.0005: the larger has the weight 0.5
#   task vectors of 1e-05 and 0.0001: the larger has the weight 0.5
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export TMPDIR="$here"
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile mergekit==0.1.5 transformers==5.24.0 torch==2.15.0
cd "$here"
TRANSFORMERS_VERBOSITY=error venv/bin/python - <<'PY'
from importlib.metadata import version
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
print("mergekit", version("mergekit"))
config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2)
model = LlamaForCausalLM(config)
NAME = "model.layers.0.mlp.up_proj.weight"

def share_of_strong(size):
    """Weight of a model ten times as far from the base, in SCE's result."""
    names = [f"{name}-{size}" for name in ("base", "weak", "strong")]
    for name, delta in zip(names, (0, size, 10 * size)):
        for parameter in model.parameters():
            parameter.data.fill_(delta)
        model.save_pretrained(name)
    recipe = {"merge_method": "sce", "base_model": names[0], "dtype": "float32",
              "models": [{"model": name} for name in names[1:]]}
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(recipe), f"out-{size}", options)
    merged = load_file(f"out-{size}/model.safetensors")[NAME].flatten()[0].item()
    return (merged - size) / (9 * size)

shares = {size: round(share_of_strong(size), 3) for size in (1e-2, 1e-3, 1e-4, 5e-5, 1e-5)}
for size, share in shares.items():
    print(f"task vectors of {size:g} and {10 * size:g}: the larger has the weight {share}")
assert shares == {1e-2: .99, 1e-3: .99, 1e-4: .99, 5e-5: .5, 1e-5: .5}, shares
PY
