"""Dequantizes a checkpoint of block fp8, tensor by tensor, as users of torch do it: python FILE FROM TO."""

import json
import os
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

source, target = sys.argv[1:]
with open(os.path.join(source, "config.json")) as file:
    config = json.load(file)
high, wide = config["quantization_config"]["weight_block_size"]
os.makedirs(target)
for name in sorted(os.listdir(source)):
    if not name.endswith(".safetensors"):
        continue
    out = {}
    with safe_open(os.path.join(source, name), framework="pt") as shard:
        names = set(shard.keys())
        for key in names:
            if key.endswith("_scale_inv"):
                continue
            weight = shard.get_tensor(key)
            if key + "_scale_inv" in names:
                scale = shard.get_tensor(key + "_scale_inv").float()
                scale = scale.repeat_interleave(high, 0)[: weight.shape[0]]
                scale = scale.repeat_interleave(wide, 1)[:, : weight.shape[1]]
                weight = (weight.float() * scale).to(torch.bfloat16)
            out[key] = weight
    save_file(out, os.path.join(target, name), metadata={"format": "pt"})
