"""Writes a distributed checkpoint of torch (2.15) from two processes, as FSDP and tensor parallelism shard it.

    python make.py two
"""
import os, sys, shutil
import torch, torch.distributed as dist, torch.multiprocessing as mp
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor, Shard, Replicate

def numbers(shape, dtype, start=0):
    n = 1
    for s in shape: n *= s
    return (torch.arange(start, start + n, dtype=torch.float32) / 8 - 2).reshape(shape).to(dtype)

def main(rank, out):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577", "RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = {
        "model.rows.weight": distribute_tensor(numbers((5, 4), torch.bfloat16), mesh, [Shard(0)]),
        "model.columns.weight": distribute_tensor(numbers((3, 6), torch.float32, 7), mesh, [Shard(1)]),
        "model.whole.weight": distribute_tensor(numbers((2, 2), torch.bfloat16, 3), mesh, [Replicate()]),
        "lm_head.weight": distribute_tensor(numbers((4, 2), torch.float16, 1), mesh, [Shard(0)]),
        "model.steps": torch.tensor([7], dtype=torch.int64),
    }
    state = {"model": model, "optimizer": {"state": {"model.rows.weight": {"exp_avg": distribute_tensor(numbers((5, 4), torch.float32), mesh, [Shard(0)])}}}, "epoch": 3}
    dcp.save(state, checkpoint_id=out)
    dist.destroy_process_group()

if __name__ == "__main__":
    out = sys.argv[1]
    shutil.rmtree(out, ignore_errors=True)
    mp.spawn(main, (out,), nprocs=2)
