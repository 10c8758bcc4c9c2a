"""Writes checkpoints of DeepSpeed ZeRO from three processes as DeepSpeed 0.19 lays them out, without it, and the
weights that its `zero_to_fp32.py` makes of them (which was run on these, but for the tensor without elements, where
it fails).

    python make.py .
"""
import torch, os, math, sys, json, types, enum
from collections import OrderedDict
out = sys.argv[1]
torch.manual_seed(0)
# objects of DeepSpeed's that the files hold
ds = types.ModuleType("deepspeed"); sys.modules["deepspeed"] = ds
for n in ("deepspeed.runtime", "deepspeed.runtime.fp16", "deepspeed.runtime.fp16.loss_scaler", "deepspeed.runtime.zero", "deepspeed.runtime.zero.config", "deepspeed.utils", "deepspeed.utils.tensor_fragment"):
    sys.modules[n] = types.ModuleType(n)
class LossScaler:
    def __init__(self): self.cur_scale = 1.0; self.kind = "static"
LossScaler.__module__ = "deepspeed.runtime.fp16.loss_scaler"; sys.modules[LossScaler.__module__].LossScaler = LossScaler
class ZeroStageEnum(int, enum.Enum):
    optimizer_states = 1; gradients = 2; weights = 3
ZeroStageEnum.__module__ = "deepspeed.runtime.zero.config"; sys.modules[ZeroStageEnum.__module__].ZeroStageEnum = ZeroStageEnum
class fragment_address:
    def __init__(self, numel, start): self.numel, self.start = numel, start
fragment_address.__module__ = "deepspeed.utils.tensor_fragment"; sys.modules[fragment_address.__module__].fragment_address = fragment_address

params = OrderedDict([("model.embed_tokens.weight", (10, 4)), ("model.layers.0.q.weight", (4, 3)), ("model.layers.0.norm.weight", (5,)), ("model.norm.weight", (7,)), ("empty", (0,))])
frozen = OrderedDict([("model.frozen.weight", (3, 5))])
values = {k: torch.randn(s) for k, s in params.items()}
fz = {k: torch.randn(s).to(torch.bfloat16) for k, s in frozen.items()}
buffers = {"model.mask": torch.tensor([1.0, 2.0]).to(torch.bfloat16), "model.count": torch.tensor(3)}
shared = {"lm_head.weight": "model.embed_tokens.weight"}
W = 3
def common(): return dict(buffer_names=list(buffers), shared_params=dict(shared), ds_version="0.16.0", ds_config={"zero": True}, lr_scheduler={"last_epoch": 1}, global_steps=5, frozen_param_shapes=OrderedDict((k, torch.Size(s)) for k, s in frozen.items()))
def stage2(path, pads=False):
    os.makedirs(path + "/global_step5")
    names = list(params); groups = [names[:2], names[2:]]
    module = OrderedDict((k, v.to(torch.bfloat16)) for k, v in values.items()); module.update(buffers); module.update(fz)
    torch.save(dict(module=module, param_shapes=[OrderedDict((k, torch.Size(params[k])) for k in g) for g in groups], frozen_param_fragments=OrderedDict(fz), **common()), path + "/global_step5/mp_rank_00_model_states.pt")
    paddings, parts = [], []
    for g in groups:
        pad = [3 if pads else 0 for _ in g]
        flat = torch.cat([torch.cat([values[k].flatten(), torch.full((p,), 9.0)]) for k, p in zip(g, pad)])
        unit = 2 * W; flat = torch.cat([flat, torch.zeros((-len(flat)) % unit)])
        paddings.append(pad); parts.append(flat.chunk(W))
    for r in range(W):
        st = dict(loss_scaler=LossScaler(), base_optimizer_state=dict(state={0: dict(exp_avg=torch.randn(4))}), single_partition_of_fp32_groups=[p[r].clone() for p in parts], zero_stage=ZeroStageEnum.gradients, partition_count=[W, W], param_slice_mappings=[OrderedDict(a=fragment_address(3, 0))], ds_version="0.16.0")
        if pads: st["param_alignment_paddings"] = paddings
        torch.save(dict(optimizer_state_dict=st, ds_config={}, ds_version="0.16.0"), f"{path}/global_step5/bf16_zero_pp_rank_{r}_mp_rank_00_optim_states.pt")
    open(path + "/latest", "w").write("global_step5")
def stage3(path):
    os.makedirs(path)
    def share(v, r):
        f = v.flatten(); n = math.ceil(f.numel() / W); f = torch.cat([f, torch.zeros(n * W - f.numel(), dtype=f.dtype)]); return f[r * n:(r + 1) * n].clone()
    for r in range(W):
        module = OrderedDict((k, torch.empty(0, dtype=torch.bfloat16)) for k in values); module.update(buffers)
        torch.save(dict(module=module, param_shapes=[OrderedDict((k, torch.Size(s)) for k, s in params.items())], frozen_param_fragments=OrderedDict((k, share(v, r)) for k, v in fz.items()), **common()), f"{path}/zero_pp_rank_{r}_mp_rank_00_model_states.pt")
        flat = torch.cat([share(v, r) for v in values.values()])
        torch.save(dict(optimizer_state_dict=dict(loss_scaler=LossScaler(), fp32_flat_groups=[flat[:18].clone(), flat[18:].clone()], zero_stage=ZeroStageEnum.weights, partition_count=W, optimizer_state_dict=dict(state={}))), f"{path}/zero_pp_rank_{r}_mp_rank_00_optim_states.pt")
stage2(out + "/two"); stage2(out + "/padded", True); stage3(out + "/three")
want = dict(values); want.update(fz); want.update(buffers); want["lm_head.weight"] = values["model.embed_tokens.weight"].clone()
from safetensors.torch import save_file
save_file({k: v.contiguous() for k, v in want.items()}, out + "/expected.safetensors")
