"""Makes the models and the digests by which what `mixdown convert` writes is judged.

Needs torch, safetensors, compressed-tensors 0.20.1, bitsandbytes 0.50.2, mlx 0.32.4, gguf 0.19.0
(and nothing of mixdown):

    python tests/formats/written/make.py

`MODEL/model.safetensors` is a layer of a llama with rows of zeros and outliers; `expected.json` has, for each
model and each form, type, shape and SHA-256 of every tensor that the library makes of it.
"""

import hashlib
import json
import pathlib

import bitsandbytes.functional
import gguf
import mlx.core as mx
import numpy
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from compressed_tensors.quantization.utils.helpers import maybe_pad_tensor_for_block_quant
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 2, "num_key_value_heads": 1}

# What is typed after `convert MODEL`, with what the library calls it.
INT = {"type": "int", "symmetric": True}
FLOAT = {"type": "float", "symmetric": True}
FORMS = {
    "--to fp8": ("float-quantized", FLOAT | {"num_bits": 8, "strategy": "channel"}),
    "--to fp8 --scales tensor": ("float-quantized", FLOAT | {"num_bits": 8, "strategy": "tensor"}),
    "--to fp8 --scales block": (
        "float-quantized",
        FLOAT | {"num_bits": 8, "strategy": "block", "block_structure": [128, 128]},
    ),
    "--to int8": ("int-quantized", INT | {"num_bits": 8, "strategy": "channel"}),
    "--to int8 --scales tensor": ("int-quantized", INT | {"num_bits": 8, "strategy": "tensor"}),
    "--to int8 --asymmetric": (
        "int-quantized",
        INT | {"num_bits": 8, "strategy": "channel", "symmetric": False},
    ),
    "--to int8 --group 32": ("pack-quantized", INT | {"num_bits": 8, "strategy": "group", "group_size": 32}),
    "--to int4 --group 32": ("pack-quantized", INT | {"num_bits": 4, "strategy": "group", "group_size": 32}),
    "--to int4 --scales channel": ("pack-quantized", INT | {"num_bits": 4, "strategy": "channel"}),
    "--to int4 --group 16 --asymmetric": (
        "pack-quantized",
        INT | {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False},
    ),
    "--to int3 --group 32": ("pack-quantized", INT | {"num_bits": 3, "strategy": "group", "group_size": 32}),
    "--to int5 --group 32 --asymmetric": (
        "pack-quantized",
        INT | {"num_bits": 5, "strategy": "group", "group_size": 32, "symmetric": False},
    ),
    "--to mxfp4": (
        "mxfp4-pack-quantized",
        FLOAT | {"num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
    ),
    "--to nvfp4": (
        "nvfp4-pack-quantized",
        FLOAT
        | {"num_bits": 4, "strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"},
    ),
}

# Forms of other libraries.
OTHERS = {
    "--to nf4": lambda weight: nf4(weight),
    "--to int8 --as bitsandbytes": lambda weight: llm_int8(weight),
    "--to fp8 --as block-fp8": lambda weight: block_fp8(weight),
    "--to int4 --as mlx --group 32": lambda weight: mlx(weight, 4, 32),
    "--to int3 --as mlx --group 32": lambda weight: mlx(weight, 3, 32),
    "--to int8 --as mlx --group 32": lambda weight: mlx(weight, 8, 32),
}


def nf4(weight):
    packed, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    state = {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    return {"weight": packed} | state


def llm_int8(weight):
    """As bitsandbytes.nn.Int8Params does it, and transformers saves it."""
    codes, largest, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.to(torch.float16))
    return {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}


def block_fp8(weight):
    """The formula of transformers 5.24.0, which leaves out tiles that are not whole."""
    high, wide = weight.shape[0] + -weight.shape[0] % 128, weight.shape[1] + -weight.shape[1] % 128
    padded = torch.zeros(high, wide)
    padded[: weight.shape[0], : weight.shape[1]] = weight.float()
    tiles = padded.reshape(high // 128, 128, wide // 128, 128)
    largest = tiles.abs().amax((1, 3))
    scales = torch.where(largest > 0, 448.0 / torch.where(largest > 0, largest, 1.0), 1.0)
    codes = (tiles * scales[:, None, :, None]).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
    codes = codes.reshape(high, wide)[: weight.shape[0], : weight.shape[1]]
    return {"weight": codes.contiguous(), "weight_scale_inv": (1.0 / scales).float()}


def mlx(weight, bits, group):
    given = mx.array(weight.float().numpy()).astype(getattr(mx, str(weight.dtype).removeprefix("torch.")))
    codes, scales, biases = mx.quantize(given, group_size=group, bits=bits)
    plain = lambda values: torch.from_numpy(numpy.array(values.astype(mx.float32))).to(weight.dtype)
    codes = torch.from_numpy(numpy.array(codes).view(numpy.int32)).view(torch.uint32)
    return {"weight": codes, "scales": plain(scales), "biases": plain(biases)}


# Types of GGUF files: that of matrices, and that of the output layer.
GGUF = {
    "q8_0": ("Q8_0", "Q8_0"),
    "q4_0": ("Q4_0", None),
    "q4_1": ("Q4_1", None),
    "q5_0": ("Q5_0", None),
    "q5_1": ("Q5_1", None),
    "mxfp4": ("MXFP4", "Q8_0"),
    "bf16": ("BF16", "BF16"),
    "f16": ("F16", "F16"),
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "lm_head": "output",
    "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def in_gguf(key, tensor, kinds):
    """Name and bytes of a tensor as llama.cpp's converter and gguf-py have them; none where they do not say."""
    module = key.removesuffix(".weight")
    layered = module.removeprefix("model.layers.0.")
    name = NAMES[layered] if layered == module else "blk.0." + NAMES[layered]
    values = tensor.float().numpy()
    kind = kinds[1] if name == "output" else kinds[0]
    if kinds[0] == "MXFP4" and name == "token_embd":
        kind = "Q8_0"
    if values.ndim == 1:
        kind = "F32"
    if kind is None:
        return None
    heads = {"blk.0.attn_q": SIZES["num_attention_heads"], "blk.0.attn_k": SIZES["num_key_value_heads"]}.get(name)
    if heads:
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    kind = gguf.GGMLQuantizationType[kind]
    data = gguf.quants.quantize(numpy.ascontiguousarray(values), kind)
    return f"{name}.weight", f"{kind.name} {list(values.shape)} {hashlib.sha256(data.tobytes()).hexdigest()}"


def model(name, dtype):
    """A model of one layer, if it is not there: its bytes are the fixture, not the generator's."""
    folder = HERE / name
    file = folder / "model.safetensors"
    if not file.exists():
        folder.mkdir(exist_ok=True)
        torch.manual_seed(7)
        hidden, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
        shapes = {
            "self_attn.q_proj": (64, hidden),
            "self_attn.k_proj": (32, hidden),
            "self_attn.v_proj": (32, hidden),
            "self_attn.o_proj": (hidden, 64),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        tensors = {"model.embed_tokens.weight": torch.randn(8, hidden), "lm_head.weight": torch.randn(8, hidden)}
        for place, (rows, columns) in shapes.items():
            # Rows of very different sizes, rows and groups of zeros, and outliers.
            weight = torch.randn(rows, columns) * torch.exp(2 * torch.randn(rows, 1)) * 0.05
            weight[1] = 0
            weight[2, :32] = 0
            weight[3, 5] = 40
            tensors[f"model.layers.0.{place}.weight"] = weight
        for place in ["input_layernorm", "post_attention_layernorm"]:
            tensors[f"model.layers.0.{place}.weight"] = 1 + 0.1 * torch.randn(hidden)
        tensors["model.norm.weight"] = 1 + 0.1 * torch.randn(hidden)
        save_file({key: value.to(dtype) for key, value in tensors.items()}, file, {"format": "pt"})
        config = {
            "architectures": ["LlamaForCausalLM"],
            "dtype": str(dtype).removeprefix("torch."),
            "max_position_embeddings": 128,
            "model_type": "llama",
            "num_hidden_layers": 1,
            "tie_word_embeddings": False,
            "vocab_size": 8,
            **SIZES,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return load_file(file)


def ends(weight, args):
    """Least and largest value of what shares a scale."""
    if args.strategy == "tensor":
        return weight.amin(), weight.amax()
    if args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if args.strategy == "block":
        high, wide = args.block_structure
        padded = maybe_pad_tensor_for_block_quant(weight, args.block_structure)
        blocks = padded.reshape(padded.shape[0] // high, high, padded.shape[1] // wide, wide)
        return blocks.amin((1, 3)), blocks.amax((1, 3))
    groups = weight.unflatten(1, (-1, args.group_size))
    return groups.amin(-1), groups.amax(-1)


def compressed(weight, form, weights):
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form)
    state, whole = {"weight": weight}, None
    if form.startswith("nvfp4"):
        whole = generate_gparam(weight.amin().float(), weight.amax().float())
        state["weight_global_scale"] = whole
    least, largest = ends(weight, args)
    scale, zero = calculate_qparams(least, largest, args, global_scale=whole)
    state |= {"weight_scale": scale, "weight_zero_point": zero}
    return BaseCompressor.get_value_from_registry(form).compress(state, scheme)


def described(tensor):
    names = {"bfloat16": "BF16", "float32": "F32", "float8_e4m3fn": "F8_E4M3", "int8": "I8", "int32": "I32"}
    names |= {"int64": "I64", "uint8": "U8", "uint32": "U32"}
    flat = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
    digest = hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
    return f"{names[str(tensor.dtype).removeprefix('torch.')]} {list(tensor.shape)} {digest}"


def main():
    expected = {}
    for name, dtype in [("bf16", torch.bfloat16), ("f32", torch.float32)]:
        source = model(name, dtype)
        makers = {
            typed: lambda tensor, form=form, weights=weights: compressed(tensor, form, weights)
            for typed, (form, weights) in FORMS.items()
        }
        for typed, make in (makers | OTHERS).items():
            found = expected.setdefault(name, {}).setdefault(typed, {})
            for key, tensor in source.items():
                module = key.removesuffix(".weight")
                if not module.endswith("_proj"):
                    continue
                parts = make(tensor)
                found |= {f"{module}.{part}": described(value) for part, value in parts.items()}
        for typed, kinds in GGUF.items():
            found = (in_gguf(key, tensor, kinds) for key, tensor in source.items())
            expected.setdefault(f"{name} as gguf", {})[typed] = dict(one for one in found if one)
    text = json.dumps(expected, indent=1, sort_keys=True)
    (HERE / "expected.json").write_text(text + "\n")


main()
