"""Muon for the layers' matrices and AdamW for the rest, on float32 master weights.

The model itself stays in bfloat16: each step rounds the masters into it, so
training always runs on the very weights that will be exported.
"""

from collections import defaultdict

import torch


def orthogonalise(x, steps=5):
    """Newton-Schulz iteration: brings each matrix of a stack close to orthogonal."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[-2] > x.shape[-1]
    x = (x.mT if tall else x).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Optimiser:
    """Optimises named parameters; matrices of repeated layers go to Muon.

    Muon's update is scaled to AdamW's usual size (0.2 sqrt(longer side)), so one
    learning rate serves both.
    """

    def __init__(self, named, rate, decay=0.05):
        named = list(named)
        self.rate, self.decay = rate, decay
        self.parameters = [p for _, p in named]
        self.masters = [p.detach().float().clone() for p in self.parameters]
        self.by_shape = defaultdict(list)
        rest = []
        for (name, p), master in zip(named, self.masters):
            if ".layers." in name and p.dim() == 2:
                self.by_shape[p.shape].append(master)
            else:
                rest.append(master)
        self.momenta = {shape: torch.zeros(len(m), *shape, device=m[0].device)
                        for shape, m in self.by_shape.items()}
        self.adamw = torch.optim.AdamW(
            [{"params": [m for m in rest if m.dim() > 1], "weight_decay": decay},
             {"params": [m for m in rest if m.dim() <= 1], "weight_decay": 0.0}],
            lr=rate, betas=(0.9, 0.98))

    def step(self, progress, warmup=0.02, cooldown=0.3, clip=1.0):
        """One step at the given progress (0 to 1): warm-up, constant rate, fall to zero."""
        rate = self.rate * min(1.0, progress / warmup, max(0.0, 1 - progress) / cooldown)
        for master, p in zip(self.masters, self.parameters):
            master.grad = None if p.grad is None else p.grad.float()
            p.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, clip)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        with torch.no_grad():
            for shape, masters in self.by_shape.items():
                self._muon(masters, self.momenta[shape], rate * 0.2 * max(shape) ** 0.5, rate)
            for master, p in zip(self.masters, self.parameters):
                p.copy_(master)

    def _muon(self, masters, momentum, size, rate):
        live = [i for i, m in enumerate(masters) if m.grad is not None]
        if not live:
            return
        grads = torch.stack([masters[i].grad for i in live])
        momentum[live] = momentum[live].lerp(grads, 0.05)
        updates = orthogonalise(grads.lerp(momentum[live], 0.95))
        for i, update in zip(live, updates):
            masters[i].mul_(1 - rate * self.decay).sub_(update, alpha=size)

    def state_dict(self):
        return {"masters": self.masters, "momenta": self.momenta, "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state):
        with torch.no_grad():
            for mine, saved in zip(self.masters, state["masters"]):
                mine.copy_(saved)
            for shape, saved in state["momenta"].items():
                self.momenta[shape].copy_(saved)
            self.adamw.load_state_dict(state["adamw"])
            for master, p in zip(self.masters, self.parameters):
                p.copy_(master)
