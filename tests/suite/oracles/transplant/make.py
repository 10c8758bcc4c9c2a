"""Writes two tiny models and what mergekit-tokensurgeon of mergekit 0.1.5 makes of them, into this folder."""

import json
import logging
import shutil
import tempfile
from pathlib import Path

import torch
from click.testing import CliRunner
from mergekit.scripts import tokensurgeon
from mergekit.scripts.tokensurgeon import main
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig

torch.set_num_threads(1)
logging.disable(logging.CRITICAL)
HERE = Path(__file__).parent
WORDS = "the cat sat on a mat and ran to see it go home".split()
CASES = {
    "omp": ["-a", "omp", "-k", "6"],
    "omp_beside": ["-a", "omp", "-k", "3", "--prefix-match", "yes", "--byte-match", "yes"],
    "omp_scaled": ["-a", "omp", "-k", "3", "--new-vocab-scale", "0.5"],
    "interpolation": ["-a", "common_interpolation", "-k", "4"],
    "interpolation_cosine": ["-a", "common_interpolation", "-k", "4", "-c"],
    "interpolation_barycentric": ["-a", "common_interpolation", "-k", "4", "-w", "barycentric"],
    "interpolation_least_squares": ["-a", "common_interpolation", "-k", "4", "-w", "least_squares"],
    "mean": ["-a", "mean"],
    "zero": ["-a", "zero"],
    "subword": ["-a", "subword"],
    "subword_weighted": ["-a", "subword", "-s", "weighted_mean"],
    "subword_ends": ["-a", "subword", "-s", "first_last"],
    "turned": ["-a", "mp_rope", "-k", "4"],
    "sparse_basis": ["-a", "stb", "-k", "8"],
    "trained": ["-a", "omp", "-k", "4", "--magikarp"],
}


def repair():
    """Two of its methods end with an error: one reads a key that configurations of transformers 5 keep elsewhere, and
    one gets all options where it takes a count."""
    LlamaConfig.rope_theta = 10000.0
    own = tokensurgeon.compute_token_basis
    tokensurgeon.compute_token_basis = lambda *given: own(*given[:-1], given[-1].k)


def model(name, seed, width, extra, special, tied):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    vocab = {}
    for token in [*"abcdefghijklmnopqrstuvwxyz0123456789Ġ", *("Ġ" + word for word in WORDS), *extra]:
        vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    begin, end = (tokenizer.token_to_id(token) for token in special)
    ids = {"bos_token_id": begin, "eos_token_id": end}
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": special[0],
            "eos_token": special[1],
        },
        "generation_config.json": {**ids, "temperature": 0.5 + width / 100},
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 4,
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied,
            "torch_dtype": "float32",
            "hidden_act": "silu",
            "rope_theta": 10000.0,
            **ids,
        },
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content, indent=1) + "\n")
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (tokenizer.get_vocab_size(), width)}
    layer = "model.layers.0."
    shapes |= {layer + "input_layernorm.weight": (width,), layer + "post_attention_layernorm.weight": (width,)}
    for part, rows in (("q", 8), ("k", 4), ("v", 4)):
        shapes[layer + f"self_attn.{part}_proj.weight"] = (rows, width)
    shapes |= {layer + "self_attn.o_proj.weight": (width, 8), layer + "mlp.down_proj.weight": (width, 8)}
    shapes |= {layer + f"mlp.{part}_proj.weight": (8, width) for part in ("gate", "up")}
    shapes["model.norm.weight"] = (width,)
    if not tied:
        shapes["lm_head.weight"] = (tokenizer.get_vocab_size(), width)
    tensors = {name: torch.randn(*shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    repair()
    model("target", 1, 16, ["Ġzebra", "Ġyak"], ("<s>", "</s>"), False)
    model("donor", 2, 24, ["Ġox", "Ġfox", "Ġthem", "Ġnewt", "qu", "ing", "<0x41>", "<0x61>"], ("<|begin|>", "<|end|>"), True)
    expected = HERE / "expected"
    shutil.rmtree(expected, ignore_errors=True)
    expected.mkdir()
    for name, arguments in CASES.items():
        with tempfile.TemporaryDirectory() as out:
            done = CliRunner().invoke(main, [str(HERE / "target"), str(HERE / "donor"), out, *arguments])
            assert done.exit_code == 0, (name, done.exception)
            made = load_file(Path(out) / "model.safetensors")
            made = {key: made[key] for key in ("model.embed_tokens.weight", "lm_head.weight")}
            save_file(made, expected / f"{name}.safetensors")
    (HERE / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")
