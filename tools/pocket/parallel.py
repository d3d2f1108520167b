"""Several training processes on CPUs, one for each core, that share their gradients."""

import os
import tempfile

import torch
import torch.distributed as dist
from torch import multiprocessing


def run(work, args, processes):
    """Calls work(rank, args) in that many processes; they end when this one ends."""
    if processes == 1:
        work(0, args)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_join, (work, args, processes, f"file://{folder}/meet"), processes)


def _join(rank, work, args, processes, meeting):
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    work(rank, args)
    dist.destroy_process_group()


def use(device):
    """One thread for each process on a CPU: sums then have the same bits in every run."""
    if device == "cpu":
        torch.set_num_threads(1)


def share(batch):
    """How many of a step's pictures are this process's."""
    if not dist.is_initialized():
        return batch
    processes = dist.get_world_size()
    if batch % processes:
        raise SystemExit(f"{batch} pictures a step cannot be shared by {processes} processes")
    return batch // processes


def average(parameters):
    """Averages the gradients over all processes."""
    if not dist.is_initialized():
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten().float() for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, part in zip(grads, flat.split([g.numel() for g in grads])):
        grad.copy_(part.view_as(grad))
