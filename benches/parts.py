"""How long cutting and joining take for a plan of 32B: `python benches/parts.py PROGRAM [FOLDER]`.

Cutting is measured on six models with the names and shapes of Qwen2.5-32B, whose weights are holes in sparse files,
into 16 parts. Joining is measured on models with as many tensors, a thousandth of their bytes: whole shards are not
copied, so that it goes by files and tensors. Medians of five, whole processes."""

import json
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS, ROUNDS, LAYERS = 16, 5, 64


def tensors(hidden, inner, vocabulary, keys):
    yield from {"model.embed_tokens.weight": [vocabulary, hidden], "lm_head.weight": [vocabulary, hidden]}.items()
    yield "model.norm.weight", [hidden]
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        yield f"{at}input_layernorm.weight", [hidden]
        yield f"{at}post_attention_layernorm.weight", [hidden]
        yield from {f"{at}mlp.{name}_proj.weight": [inner, hidden] for name in ("gate", "up")}.items()
        yield f"{at}mlp.down_proj.weight", [hidden, inner]
        for name, rows in {"q": hidden, "k": keys, "v": keys}.items():
            yield f"{at}self_attn.{name}_proj.weight", [rows, hidden]
            yield f"{at}self_attn.{name}_proj.bias", [rows]
        yield f"{at}self_attn.o_proj.weight", [hidden, hidden]


def write(folder, sizes):
    folder.mkdir(parents=True)
    header, end = {}, 0
    for name, shape in tensors(*sizes):
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "num_hidden_layers": LAYERS}))


def recipe(folder):
    experts = "".join(f"  - {{model: ./{name}, parameters: {{weight: 1, density: 0.5}}}}\n" for name in "abcde")
    text = f"merge_method: ties\nbase_model: ./base\nmodels:\n{experts}dtype: bfloat16\n"
    (folder / "recipe.yaml").write_text(text)


def timed(command, folder):
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main():
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as root:
        large, small = Path(root, "large"), Path(root, "small")
        for folder, sizes in {large: (5120, 27648, 152064, 1024), small: (160, 864, 4752, 32)}.items():
            for name in ("base", *"abcde"):
                write(folder / name, sizes)
            recipe(folder)
        plan = [program, "plan", "recipe.yaml", "--parts", str(PARTS), "--shard-size", "1GB"]
        cutting = [timed(plan, large) for _ in range(ROUNDS)]
        for part in range(1, PARTS + 1):
            merge = [program, "merge", "recipe.yaml", "--out", "parts", "--shard-size", "1MB", "--part"]
            timed([*merge, f"{part}/{PARTS}"], small)
        joining = []
        for _ in range(ROUNDS):
            shutil.copytree(small / "parts", small / "merged")
            joining.append(timed([program, "assemble", "merged"], small))
            shutil.rmtree(small / "merged")
        for what, times in {"cutting": cutting, "joining": joining}.items():
            print(f"{what:8} {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")


main()
