#!/usr/bin/env bash
# Guess: merge_and_unload gives a model that computes what the one with its adapter computed.
# Instead: where output layer and embedding are one tensor, a LoRA on either is trained apart and merged into the one
#   tensor, so that the other changes, too; with `ensure_weight_tying`, which trains both, the one update is merged
#   twice. peft warns of complications, and merges; a LoRA on any other module of the same model merges exactly.
# Why it matters: adapters on `lm_head` or `embed_tokens` are usual where tokens were added, and small models are tied.
#   A merge that agrees with peft's tensors is then another model than the one that was trained.
# Seen with peft 0.21.2, transformers 5.24.0 and torch 2.15.0, norms of the difference over those of the logits:
#   q_proj: 0.00
#   lm_head: 2.84
#   embed_tokens: 21.41
#   lm_head, ensure_weight_tying: 1.05
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export TMPDIR="$here" HF_HUB_OFFLINE=1
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile peft==0.21.2 transformers==5.24.0 torch==2.15.0
cd "$here"
venv/bin/python - <<'PY'
from importlib.metadata import version
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM
for name in ("peft", "transformers", "torch"):
    print(name, version(name))

def change(modules, **more):
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=20, tie_word_embeddings=True)).eval()
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=2, target_modules=modules, **more)).eval()
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
        tokens = torch.arange(20)[None]
        trained = peft(tokens).logits
        merged = peft.merge_and_unload()
        found = merged(tokens).logits
    return ((found - trained).norm() / trained.norm()).item()

seen = {
    "q_proj": change(["q_proj"]),
    "lm_head": change(["lm_head"]),
    "embed_tokens": change(["embed_tokens"]),
    "lm_head, ensure_weight_tying": change(["lm_head"], ensure_weight_tying=True),
}
for what, differs in seen.items():
    print(f"{what}: {differs:.2f}")
assert seen.pop("q_proj") < 1e-5
assert all(differs > 0.5 for differs in seen.values())
PY
