#!/usr/bin/env python3
"""Makes the adapters of this folder with peft 0.21.2, and what they make of their bases.

    pip install torch transformers==5.24.0 peft==0.21.2
    python make.py [CASE...]

models/NAME are tiny models of transformers. cases/NAME is an adapter as peft saves it, with every
trainable number drawn at random, and expected/NAME.safetensors holds the tensors that differ from the base's
once `merge_and_unload` and `save_pretrained` have written them. models.json says which model each is on.
"""
import json
import pathlib
import shutil
import sys
import tempfile

import torch
from peft import (
    AdaLoraConfig, BOFTConfig, C3AConfig, FourierFTConfig, HRAConfig, IA3Config, LNTuningConfig,
    LoHaConfig, LoKrConfig, LoraConfig, MissConfig, OFTConfig, PeftModel, RandLoraConfig, ShiraConfig,
    TrainableTokensConfig, VeraConfig, get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig, BertForSequenceClassification,
    GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM,
    Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration, ViTConfig, ViTModel, WhisperConfig, WhisperModel,
)

HERE = pathlib.Path(__file__).resolve().parent

MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=20, tie_word_embeddings=False)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=20, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=20, num_local_experts=3)),
    "mixtral_fused": lambda: MODELS["mixtral"](),
    "whisper": lambda: WhisperModel(WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=20, num_mel_bins=6, max_source_positions=8,
        max_target_positions=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)),
    "bert": lambda: BertForSequenceClassification(BertConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=20,
        max_position_embeddings=8)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(
        d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=20, tie_word_embeddings=True)),
    "vit": lambda: ViTModel(ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8,
        patch_size=4), add_pooling_layer=False),
}

QV = ["q_proj", "v_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CASES = {
    "dora": ("llama", lambda: LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=ALL)),
    "dora_rslora": ("llama", lambda: LoraConfig(r=3, lora_alpha=5, use_rslora=True, use_dora=True, target_modules=QV)),
    "dora_gpt2": ("gpt2", lambda: LoraConfig(r=3, lora_alpha=5, use_dora=True, fan_in_fan_out=True, target_modules=["c_attn", "c_fc"])),
    "dora_embedding": ("llama", lambda: LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=["embed_tokens", "q_proj"])),
    "dora_conv2d": ("vit", lambda: LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=["projection"])),
    "lora_conv1d": ("whisper", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=["conv1", "conv2", "q_proj"])),
    "lora_conv2d": ("vit", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=["projection"])),
    "lora_bias": ("qwen2", lambda: LoraConfig(r=3, lora_alpha=5, lora_bias=True, target_modules=["q_proj", "k_proj"])),
    "lora_tokens": ("llama", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=QV, trainable_token_indices=[2, 7, 11])),
    "lora_tokens_tied": ("qwen2", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=QV, trainable_token_indices={"embed_tokens": [3, 9]})),
    "lora_parameters": ("mixtral_fused", lambda: LoraConfig(
        r=2, lora_alpha=5, target_modules=QV,
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])),
    "lora_parameters_separate": ("mixtral", lambda: LoraConfig(
        r=2, lora_alpha=5, target_modules=QV,
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])),
    "adalora": ("llama", lambda: AdaLoraConfig(init_r=4, target_r=2, lora_alpha=5, total_step=10, tinit=1, tfinal=1, target_modules=QV)),
    "loha": ("llama", lambda: LoHaConfig(r=3, alpha=5, target_modules=ALL)),
    "loha_conv2d": ("vit", lambda: LoHaConfig(r=3, alpha=5, use_effective_conv2d=True, target_modules=["projection"])),
    "lokr": ("llama", lambda: LoKrConfig(r=2, alpha=5, target_modules=ALL)),
    "lokr_both": ("llama", lambda: LoKrConfig(r=1, alpha=5, decompose_both=True, decompose_factor=4, target_modules=ALL)),
    "lokr_conv2d": ("vit", lambda: LoKrConfig(r=1, alpha=5, use_effective_conv2d=True, target_modules=["projection"])),
    "vera": ("llama", lambda: VeraConfig(r=3, target_modules=ALL)),
    "oft": ("llama", lambda: OFTConfig(oft_block_size=4, r=0, use_cayley_neumann=False, target_modules=ALL)),
    "oft_neumann": ("llama", lambda: OFTConfig(oft_block_size=8, r=0, target_modules=QV)),
    "oft_shared_coft": ("llama", lambda: OFTConfig(oft_block_size=8, r=0, block_share=True, coft=True, eps=0.02, target_modules=QV)),
    "boft": ("llama", lambda: BOFTConfig(boft_block_size=4, target_modules=ALL)),
    "ia3": ("qwen2", lambda: IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "ia3_gpt2": ("gpt2", lambda: IA3Config(target_modules=["c_attn", "c_proj"], feedforward_modules=["c_proj"], fan_in_fan_out=True)),
    "fourierft": ("llama", lambda: FourierFTConfig(n_frequency=20, scaling=40.0, random_loc_seed=7, target_modules=ALL)),
    "randlora": ("llama", lambda: RandLoraConfig(r=4, randlora_alpha=5, target_modules=ALL)),
    "miss": ("llama", lambda: MissConfig(r=5, target_modules=ALL)),
    "miss_bat": ("llama", lambda: MissConfig(r=4, init_weights="bat", target_modules=QV)),
    "miss_mini": ("llama", lambda: MissConfig(r=4, mini_r=2, init_weights="mini", target_modules=QV)),
    "shira": ("llama", lambda: ShiraConfig(r=1, target_modules=ALL)),
    "c3a": ("llama", lambda: C3AConfig(block_size=4, target_modules=ALL)),
    "hra": ("llama", lambda: HRAConfig(r=2, target_modules=QV)),
    "hra_gs": ("llama", lambda: HRAConfig(r=2, apply_GS=True, target_modules=QV)),
    "ln_tuning": ("llama", lambda: LNTuningConfig(target_modules=["input_layernorm", "norm"])),
    "trainable_tokens": ("llama", lambda: TrainableTokensConfig(token_indices=[1, 5], target_modules=["embed_tokens"])),
}

# On a base whose output layer is its embedding: what of the two is trained how, and whether peft keeps them one.
TIED = {
    "embedding": dict(target_modules=[*QV, "embed_tokens"]),
    "head": dict(target_modules=[*QV, "lm_head"]),
    "both": dict(target_modules=[*QV, "embed_tokens", "lm_head"]),
    "dora_embedding": dict(target_modules=[*QV, "embed_tokens"], use_dora=True),
    "dora_head": dict(target_modules=[*QV, "lm_head"], use_dora=True),
    "saved_embedding": dict(modules_to_save=["embed_tokens"]),
    "saved_head": dict(modules_to_save=["lm_head"]),
    "saved_both": dict(modules_to_save=["embed_tokens", "lm_head"]),
    "saved_embedding_lora_head": dict(target_modules=[*QV, "lm_head"], modules_to_save=["embed_tokens"]),
    "saved_head_lora_embedding": dict(target_modules=[*QV, "embed_tokens"], modules_to_save=["lm_head"]),
    "tokens_both": dict(trainable_token_indices={"embed_tokens": [3, 9], "lm_head": [3, 9]}),
    "tokens_head": dict(trainable_token_indices={"lm_head": [3, 9]}),
    "ensured_embedding": dict(target_modules=[*QV, "embed_tokens"], ensure_weight_tying=True),
    "ensured_head": dict(target_modules=[*QV, "lm_head"], ensure_weight_tying=True),
    "ensured_saved_embedding": dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "ensured_saved_head": dict(modules_to_save=["lm_head"], ensure_weight_tying=True),
    "ensured_tokens": dict(trainable_token_indices=[3, 9], ensure_weight_tying=True),
}
for case, settings in TIED.items():
    CASES[f"tied_{case}"] = ("qwen2", lambda own=settings: LoraConfig(**{**dict(r=3, lora_alpha=5, target_modules=QV), **own}))
CASES |= {
    "experts_all_linear": ("mixtral", lambda: LoraConfig(r=2, lora_alpha=5, target_modules="all-linear")),
    "experts_all_linear_fused": ("mixtral_fused", lambda: LoraConfig(r=2, lora_alpha=5, target_modules="all-linear")),
    "experts_bare": ("mixtral", lambda: LoraConfig(r=2, lora_alpha=5, target_modules=QV, target_parameters=["down_proj"])),
    "biases_of_saved": ("bert", lambda: LoraConfig(r=3, lora_alpha=5, bias="all", target_modules=["query"], modules_to_save=["classifier"])),
    # Layers that the files call otherwise than transformers 5 has them in memory, and a tensor saved whole.
    "names_in_memory": ("vit", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "o_proj", "fc1", "fc2"], modules_to_save=["layernorm"])),
    "tied_trainable_tokens": ("qwen2", lambda: TrainableTokensConfig(token_indices=[1, 5], target_modules=["embed_tokens"])),
    "tied_loha_head": ("qwen2", lambda: LoHaConfig(r=3, alpha=5, target_modules=["lm_head"])),
    "tied_gpt2_both": ("gpt2", lambda: LoraConfig(r=3, lora_alpha=5, fan_in_fan_out=True, target_modules=["c_attn", "wte", "lm_head"])),
    "tied_gpt2_ensured": ("gpt2", lambda: LoraConfig(r=3, lora_alpha=5, fan_in_fan_out=True, target_modules=["c_attn", "lm_head"], ensure_weight_tying=True)),
    "tied_t5_head": ("t5", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=["q", "lm_head"])),
    "tied_t5_both": ("t5", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=["q", "shared", "lm_head"])),
    "tied_t5_saved_embedding": ("t5", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=["q"], modules_to_save=["shared"])),
    "tied_t5_saved_head": ("t5", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=["q"], modules_to_save=["lm_head"])),
    "tied_t5_ensured": ("t5", lambda: LoraConfig(r=3, lora_alpha=5, target_modules=["q", "lm_head"], ensure_weight_tying=True)),
}

# Where the output layer alone was trained, peft merges into the embedding as well; it is given a tensor of its own
# before, so that what is expected computes what was trained.
APART = ["tied_head", "tied_both", "tied_gpt2_both", "tied_t5_head", "tied_t5_both"]


def model(name):
    torch.manual_seed(sum(name.removesuffix("_fused").encode()))
    made = MODELS[name]().float()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return made.eval()


def stored(name, made):
    """The tensors of a model as its files hold them, tied where its config says so."""
    if getattr(made.config, "tie_word_embeddings", False):
        made.tie_weights()
    if name.endswith("_fused"):
        return {key: value.clone() for key, value in made.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return load_file(pathlib.Path(folder) / "model.safetensors")


def make(name):
    base_name, config = CASES[name]
    base = model(base_name)
    base.tie_weights()
    torch.manual_seed(sum(name.encode()) * 31)
    peft = get_peft_model(base, config())
    with torch.no_grad():
        for key, parameter in peft.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn_like(parameter) * 0.3
                parameter.copy_(parameter + noise if "magnitude" in key else noise)
    folder = HERE / "cases" / name
    shutil.rmtree(folder, ignore_errors=True)
    peft.save_pretrained(folder)
    (folder / "README.md").unlink()
    fresh = model(base_name)
    fresh.tie_weights()
    loaded = PeftModel.from_pretrained(fresh, folder)
    if name in APART:
        layer = loaded.get_base_model().lm_head.base_layer
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
    merged = loaded.merge_and_unload()
    if name in APART:
        merged.config.tie_word_embeddings = False
    is_tied = getattr(merged.config, "tie_word_embeddings", False)
    merged, before = stored(base_name, merged), stored(base_name, model(base_name))
    # The test goes by the names.
    assert not name.startswith("tied_") or is_tied == ("lm_head.weight" not in merged), name
    changed = {
        key: value.contiguous() for key, value in merged.items()
        if key not in before or not torch.equal(value, before[key])
    }
    (HERE / "expected").mkdir(exist_ok=True)
    save_file(changed, HERE / "expected" / f"{name}.safetensors")
    print(name, len(changed), "tensors changed")


def main():
    of = {name: base_name for name, (base_name, _) in CASES.items()}
    (HERE / "models.json").write_text(json.dumps(of, indent=2) + "\n")
    names = sys.argv[1:] or list(CASES)
    for base_name in {CASES[name][0] for name in names}:
        folder = HERE / "models" / base_name
        shutil.rmtree(folder, ignore_errors=True)
        made = model(base_name)
        made.tie_weights()
        made.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file(stored(base_name, made), folder / "model.safetensors", metadata={"format": "pt"})
    for name in names:
        try:
            make(name)
        except Exception as error:
            print(name, "FAILED", type(error).__name__, error)


main()
