#!/usr/bin/env python3
"""Makes the models and the expected results of this folder with mergekit 0.1.5.

    pip install mergekit==0.1.5
    python make.py [CASE...]

cases.yaml holds one configuration for each case, with model paths relative to this folder. For each
this writes cases/NAME/config.yml and either expected.safetensors with expected_config.json, and the
vocabulary where one was built, or error.txt where mergekit refuses. statistical.txt marks the cases
that draw random numbers.
"""
import json
import os
import pathlib
import shutil
import sys

# The order of sets of strings decides which model gives the config when there is no base.
if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, *sys.argv],
              os.environ | {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"})

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors import safe_open
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV = 8, 16, 3, 2, 1
LETTERS = list("abcdefghijklmnop")
MERGES = [("a", "b"), ("c", "d"), ("e", "f")]


def config(vocabulary, layers, tied):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV, "vocab_size": vocabulary,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": tied, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2,
    }


def shapes(vocabulary, layers, tied):
    kv = HIDDEN // HEADS * KV
    found = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for layer in range(layers):
        for name, shape in {
            "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN),
            "self_attn.v_proj": (kv, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE), "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
        }.items():
            found[f"model.layers.{layer}.{name}.weight"] = shape
    found["model.norm.weight"] = (HIDDEN,)
    if not tied:
        found["lm_head.weight"] = (vocabulary, HIDDEN)
    return found


def noise(seed, name, shape):
    generator = torch.Generator().manual_seed(seed * 7919 + sum(name.encode()) * 31 + len(name))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def values(seed, expert, scale, vocabulary, layers, tied):
    tensors = {}
    for name, shape in shapes(vocabulary, layers, tied).items():
        base = 0.05 * noise(seed, name, shape) + (1.0 if len(shape) == 1 else 0.0)
        tensors[name] = base.to(torch.bfloat16).double()
        if expert:
            tensors[name] = tensors[name] + scale * noise(expert, name, shape)
    return tensors


def write_tokenizer(path, added):
    """Letters, three joined pairs, and after them the added tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = ["<unk>", "<s>", "</s>", *LETTERS, *["".join(pair) for pair in MERGES]]
    tokenizer = Tokenizer(models.BPE(
        vocab={token: i for i, token in enumerate(plain)}, merges=MERGES, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    for token in added:
        tokenizer.add_tokens([AddedToken(token, special=token.startswith("<"), normalized=False)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>",
                            eos_token="</s>").save_pretrained(path)
    return len(plain) + len(added)


def write_model(name, dtype, seed=23, expert=None, scale=0.01, layers=LAYERS, tied=False,
                added=("<x>", "<y>"), rows=None, shards=1, edit=None):
    path = HERE / "models" / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    size = write_tokenizer(path, added)
    rows = rows or size
    tensors = {k: v.to(dtype).contiguous()
               for k, v in values(seed, expert, scale, rows, layers, tied).items()}
    if edit:
        edit(tensors)
    (path / "config.json").write_text(json.dumps(config(rows, layers, tied), indent=2) + "\n")
    if shards == 1:
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = sorted(tensors)[shard::shards]
        save_file({k: tensors[k] for k in part}, path / file, {"format": "pt"})
        weight_map |= {k: file for k in part}
    (path / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
         "weight_map": weight_map}, indent=2) + "\n")


def negate(tensors):
    for name in tensors:
        tensors[name] = -tensors[name]


def zero_some(tensors):
    for name in tensors:
        if "q_proj" in name or "input_layernorm" in name:
            tensors[name] = torch.zeros_like(tensors[name])


def make_models():
    f16, bf16, f32, f64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
    write_model("base", bf16, shards=2)
    write_model("a", f32, expert=1)
    write_model("b", f32, expert=2, scale=0.02)
    write_model("c", f32, expert=3, shards=3)
    write_model("near", f32, expert=4, scale=1e-4)
    write_model("far", f32, seed=24)
    write_model("negated", f32, edit=negate)
    write_model("zeros", f32, expert=5, edit=zero_some)
    write_model("a16", bf16, expert=1)
    write_model("b16", f16, expert=2, scale=0.02)
    write_model("a64", f64, expert=1)
    write_model("deep", f32, seed=25, layers=5)
    write_model("tied", f32, expert=6, tied=True)
    write_model("tied_b", f32, expert=7, tied=True)
    # Vocabularies that differ: other added tokens, in another order, and rows without a token.
    write_model("words_a", f32, expert=8, added=("<y>", "<x>", "<a1>"))
    write_model("words_b", f32, expert=9, added=("<b1>", "<x>"))
    write_model("padded", f32, expert=10, rows=32)


STATISTICAL = """\
Random numbers are drawn: the share of zeros in the task vector and its mean magnitude are compared, not values.
"""


def run(name, text, statistical):
    where, result = HERE / "cases" / name, HERE / "result"
    for folder in (where, result):
        shutil.rmtree(folder, ignore_errors=True)
    where.mkdir(parents=True)
    (where / "config.yml").write_text(text)
    if statistical:
        (where / "statistical.txt").write_text(STATISTICAL)
    try:
        torch.manual_seed(1)
        configuration = MergeConfiguration.model_validate(yaml.safe_load(text))
        run_merge(configuration, str(result), MergeOptions(
            random_seed=1, write_model_card=False, quiet=True))
    except Exception as error:  # whatever mergekit raises is its way to refuse
        line = str(error).strip().splitlines()
        (where / "error.txt").write_text(f"{type(error).__name__}: {(line or [''])[0]}\n")
        print("refused ", name, type(error).__name__, (line or [""])[0][:140])
        return
    tensors = {}
    for file in sorted(result.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            tensors |= {key: opened.get_tensor(key) for key in opened.keys()}
    save_file(tensors, where / "expected.safetensors", {"format": "pt"})
    shutil.copy(result / "config.json", where / "expected_config.json")
    built = configuration.tokenizer or configuration.tokenizer_source
    if built and (result / "tokenizer.json").exists():
        from transformers import AutoTokenizer
        vocabulary = AutoTokenizer.from_pretrained(result).get_vocab()
        ordered = dict(sorted(vocabulary.items(), key=lambda entry: entry[1]))
        (where / "expected_vocabulary.json").write_text(json.dumps(ordered, indent=1) + "\n")
    print("merged  ", name, len(tensors), {str(t.dtype) for t in tensors.values()})
    shutil.rmtree(result)


def main():
    os.chdir(HERE)
    chosen = sys.argv[1:]
    cases = yaml.safe_load((HERE / "cases.yaml").read_text())
    if not chosen or not (HERE / "models").exists():
        make_models()
        shutil.rmtree(HERE / "cases", ignore_errors=True)
    for name, case in cases.items():
        if not chosen or name in chosen:
            run(name, case["config"], case.get("statistical"))


if __name__ == "__main__":
    main()
