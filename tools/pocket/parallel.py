"""Several training processes that share their gradients (one for each CPU core)."""

import os

import torch
import torch.distributed as dist


def start():
    """Joins the group that torchrun made, if there is one; returns this process's rank."""
    if "WORLD_SIZE" not in os.environ:
        return 0
    dist.init_process_group("gloo")
    return dist.get_rank()


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
