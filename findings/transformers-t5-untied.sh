#!/usr/bin/env bash
# Guess: untying the output layer of a T5 (a copy of the embedding under `lm_head.weight` and
#   `tie_word_embeddings: false`) changes no number, as in other families.
# Instead: the same flag also decides whether the decoder's output is multiplied by
#   1/sqrt(d_model) before the output layer. All logits grow by sqrt(d_model): 22.6 in t5-small.
# Why it matters: a merge of two T5 whose heads differ must write a head of its own, and has then
#   to keep the factor: `scale_decoder_outputs: true` beside the flag. Greedy answers stay the same,
#   so that only sampling, scores and losses show it. Configs of older files lack that key.
# Seen with transformers 5.24.0:
#   transformers 5.24.0
#   d_model 64, the same matrix tied and untied: logits x 8.000
#   with scale_decoder_outputs: true: logits x 1.000
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export TMPDIR="$here"
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile transformers==5.24.0 torch==2.15.0
cd "$here"
TRANSFORMERS_VERBOSITY=error venv/bin/python - <<'PY'
from importlib.metadata import version
import json, torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration
print("transformers", version("transformers"))
ids = torch.arange(6)[None]

@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids, decoder_input_ids=ids).logits

torch.manual_seed(0)
model = T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=64, d_kv=8, d_ff=16, num_layers=1,
                                            num_heads=2, decoder_start_token_id=0))
tied = logits(model)
model.save_pretrained("t5")
weights = load_file("t5/model.safetensors")
weights["lm_head.weight"] = weights["shared.weight"].clone()
save_file(weights, "t5/model.safetensors", metadata={"format": "pt"})
config = json.load(open("t5/config.json"))
config.pop("scale_decoder_outputs")

def ratio(**keys):
    json.dump(config | keys, open("t5/config.json", "w"))
    return (logits(T5ForConditionalGeneration.from_pretrained("t5")) / tied).median().item()

plain, kept = ratio(tie_word_embeddings=False), ratio(tie_word_embeddings=False, scale_decoder_outputs=True)
print(f"d_model 64, the same matrix tied and untied: logits x {plain:.3f}")
print(f"with scale_decoder_outputs: true: logits x {kept:.3f}")
assert abs(plain - 8) < 1e-3 and abs(kept - 1) < 1e-3
PY
