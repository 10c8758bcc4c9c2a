"""Writes expected.json: what transformers answers with small models, greedily, in float32.

    python make.py > expected.json

Needs torch and transformers; transformers 5.24.0 and torch 2.15.0 wrote the file. Weights come from a
counter (SplitMix64), so that the tests make the same without them: see `values`.
"""
import copy
import json

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

MASK = (1 << 64) - 1


def values(name, count):
    """The centered sums of four 16-bit numbers, for a tensor's name, with seed 0."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        mixed = state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        mixed ^= mixed >> 31
        total = sum((mixed >> (16 * part)) & 0xFFFF for part in range(4))
        yield (total / 65536.0 - 2.0 + 2.0 / 65536.0) * 1.7320508075688772


def fill(name, tensor, dtype):
    mean = 1.0 if "norm" in name or ("ln_" in name and name.endswith("weight")) else 0.0
    scale = 0.25 if tensor.dim() == 2 else 0.1
    numbers = [mean + scale * value for value in values(name, tensor.numel())]
    return torch.tensor(numbers, dtype=torch.float64).to(dtype).float().reshape(tensor.shape)


SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             vocab_size=40, max_position_embeddings=64, bos_token_id=None, pad_token_id=None)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, vocab_size=40, n_positions=64, bos_token_id=None,
            pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)
CASES = {
    "llama": (LlamaConfig, "f32", dict(num_key_value_heads=2, rope_parameters=dict(
        rope_type="default", rope_theta=10000.0))),
    "llama with stretched angles, wide heads and a tied output": (LlamaConfig, "bf16", dict(
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "llama with biases": (LlamaConfig, "f32", dict(
        num_key_value_heads=4, attention_bias=True, mlp_bias=True, rope_parameters=dict(
            rope_type="linear", rope_theta=10000.0, factor=2.0))),
    "qwen2": (Qwen2Config, "bf16", dict(num_key_value_heads=1, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    # Two prompts and their answers stay within the training's 16 positions at first, the third does not.
    "llama with dynamic angles": (LlamaConfig, "f32", dict(num_key_value_heads=2,
        max_position_embeddings=16, rope_parameters=dict(
            rope_type="dynamic", rope_theta=10000.0, factor=3.0))),
    "llama with YaRN": (LlamaConfig, "f32", dict(num_key_value_heads=2, rope_parameters=dict(
        rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=16))),
    "qwen2 with YaRN, all numbers given": (Qwen2Config, "f32", dict(num_key_value_heads=2,
        head_dim=8, rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=2.0,
            original_max_position_embeddings=32, beta_fast=16, beta_slow=2, mscale=0.9,
            mscale_all_dim=0.5, truncate=False))),
    "qwen2 with a window in the second layer": (Qwen2Config, "f32", dict(num_key_value_heads=2,
        use_sliding_window=True, sliding_window=5, max_window_layers=1, rope_parameters=dict(
            rope_type="default", rope_theta=10000.0))),
    "mistral with windows": (MistralConfig, "bf16", dict(num_key_value_heads=2, sliding_window=7,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    "gpt2": (GPT2Config, "f32", dict()),
    "gpt2 with scores by layer, another function and an output": (GPT2Config, "bf16", dict(
        n_inner=48, activation_function="gelu", scale_attn_by_inverse_layer_idx=True,
        layer_norm_epsilon=1e-3, tie_word_embeddings=False)),
}
PROMPTS = [[3, 17, 5], [9], [1, 2, 3, 4, 5, 6, 7, 8, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 0]]

found = []
for name, (kind, dtype, extra) in CASES.items():
    sizes = GPT2 if kind is GPT2Config else SIZES
    config = kind(**{**sizes, **extra}, eos_token_id=None, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    torch_dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    with torch.no_grad():
        for tensor_name, tensor in model.named_parameters():
            tensor.copy_(fill(tensor_name, tensor, torch_dtype))
    fresh = copy.deepcopy(model)
    answers = []
    for prompt in PROMPTS:
        # Dynamic angles remember the longest text; each prompt has a model that has seen none.
        model = copy.deepcopy(fresh)
        ids = torch.tensor([prompt])
        with torch.no_grad():
            scores = model(ids).logits[0, -1].tolist()
            told = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20,
                                  do_sample=False, num_beams=1)[0, len(prompt):].tolist()
        answers.append(dict(prompt=prompt, scores=[float(f"{s:.7g}") for s in scores], answer=told))
    kept = ["model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
            "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "head_dim",
            "rms_norm_eps", "tie_word_embeddings", "rope_parameters", "hidden_act",
            "use_sliding_window", "sliding_window", "max_window_layers", "layer_types", "n_embd",
            "n_layer", "n_head", "n_positions", "n_inner", "activation_function",
            "layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"]
    whole = config.to_dict()
    tensors = {k: list(v.shape) for k, v in model.named_parameters()}
    found.append(dict(name=name, dtype=dtype, config={k: whole[k] for k in kept if k in whole},
                      tensors=tensors, answers=answers))

print("[\n" + ",\n".join(json.dumps(case) for case in found) + "\n]")
