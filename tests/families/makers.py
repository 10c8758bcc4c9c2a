"""Tiny models of the families that are most used, made by transformers from their configs."""

import torch
import transformers

# What most configs call their sizes; a family says what it has otherwise.
TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}
EXPERTS = {"num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 8, "patch_size": 4}

# Family: class of the model, its config's keys. What a config does not know it keeps as it is.
FAMILIES = {
    "llama": ("LlamaForCausalLM", TEXT),
    "mistral": ("MistralForCausalLM", TEXT),
    "mixtral": ("MixtralForCausalLM", TEXT | EXPERTS),
    "qwen2": ("Qwen2ForCausalLM", TEXT),
    "qwen2_tied": ("Qwen2ForCausalLM", TEXT | {"tie_word_embeddings": True}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", TEXT | EXPERTS | {"shared_expert_intermediate_size": 12}),
    "qwen3": ("Qwen3ForCausalLM", TEXT),
    "qwen3_moe": ("Qwen3MoeForCausalLM", TEXT | EXPERTS),
    "qwen3_next": ("Qwen3NextForCausalLM", TEXT | EXPERTS | {
        "shared_expert_intermediate_size": 12, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "layer_types": ["linear_attention", "full_attention"] * 2}),
    "gemma": ("GemmaForCausalLM", TEXT),
    "gemma2": ("Gemma2ForCausalLM", TEXT),
    "gemma3": ("Gemma3ForCausalLM", TEXT),
    "phi": ("PhiForCausalLM", TEXT),
    "phi3": ("Phi3ForCausalLM", TEXT),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 4, "n_head": 2, "vocab_size": 40, "n_positions": 64}),
    "gpt_neox": ("GPTNeoXForCausalLM", TEXT),
    "gpt_oss": ("GptOssForCausalLM", TEXT | EXPERTS),
    "opt": ("OPTForCausalLM", TEXT | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 16, "n_layer": 4, "n_head": 2, "vocab_size": 40}),
    "falcon": ("FalconForCausalLM", {key: size for key, size in TEXT.items() if key != "head_dim"}),
    "starcoder2": ("Starcoder2ForCausalLM", TEXT),
    "stablelm": ("StableLmForCausalLM", TEXT),
    "cohere": ("CohereForCausalLM", TEXT),
    "cohere2": ("Cohere2ForCausalLM", TEXT),
    "olmo2": ("Olmo2ForCausalLM", TEXT),
    "granite": ("GraniteForCausalLM", TEXT),
    "smollm3": ("SmolLM3ForCausalLM", TEXT),
    "deepseek_v3": ("DeepseekV3ForCausalLM", TEXT | {
        "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
        "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 2}),
    "olmoe": ("OlmoeForCausalLM", TEXT | EXPERTS),
    "glm4_moe": ("Glm4MoeForCausalLM", TEXT | EXPERTS | {
        "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", TEXT | EXPERTS | {"moe_num_experts": 4, "moe_k": 2}),
    "jamba": ("JambaForCausalLM", TEXT | EXPERTS | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4}),
    "phimoe": ("PhimoeForCausalLM", {key: size for key, size in (TEXT | EXPERTS).items() if key != "head_dim"}),
    "minimax_m2": ("MiniMaxM2ForCausalLM", TEXT | EXPERTS | {"rotary_dim": 8}),
    "lfm2_moe": ("Lfm2MoeForCausalLM", TEXT | EXPERTS | {
        "layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 2}),
    "granitemoe": ("GraniteMoeForCausalLM", TEXT | EXPERTS),
    "qwen3_vl_moe": ("Qwen3VLMoeForConditionalGeneration", {
        "text_config": TEXT | EXPERTS | {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        "vision_config": {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4,
                          "temporal_patch_size": 1, "out_hidden_size": 16, "num_position_embeddings": 16,
                          "deepstack_visual_indexes": [0, 1]}}),
    "t5": ("T5ForConditionalGeneration", {
        "vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}),
    "bert": ("BertForMaskedLM", TEXT),
    "whisper": ("WhisperForConditionalGeneration", {
        "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 40,
        "num_mel_bins": 6, "max_source_positions": 8, "max_target_positions": 8, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}),
    "vit": ("ViTForImageClassification", VISION),
    "clip": ("CLIPModel", {
        "text_config": TEXT, "vision_config": VISION, "projection_dim": 8}),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", {
        "text_config": TEXT | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        "vision_config": {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2,
                          "patch_size": 4, "temporal_patch_size": 1}}),
    "llava": ("LlavaForConditionalGeneration", {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model"}}),
}

# Those whose layers are in one stack that `layer_range` means.
STACKED = [name for name in FAMILIES if name not in ("t5", "bert", "whisper", "vit", "clip", "qwen2_vl", "llava", "qwen3_vl_moe")]


def model_class(family):
    return getattr(transformers, FAMILIES[family][0])


def make(family, seed, near=None):
    """A model with numbers drawn from a seed; near another's where one is given."""
    wanted, keys = model_class(family), FAMILIES[family][1]
    config = wanted.config_class(**keys)
    torch.manual_seed(seed)
    made = wanted(config).eval().float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        others = dict(near.named_parameters()) if near is not None else {}
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(others[name] + 0.05 * noise if name in others else 0.2 * noise)
    made.tie_weights()
    return made
