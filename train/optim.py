"""Muon for matrices (Jordan et al. 2024, with the update size of Liu et al. 2025), AdamW for the
rest. All state is in f32 tensors; the same gradients give the same bits."""

import torch
from torch import Tensor

# Coefficients of the quintic iteration that drives singular values towards 1.
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """U Vᵀ of each matrix of g [n, rows, columns], roughly; in bf16 on a GPU."""
    x = g.to(torch.bfloat16 if g.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        xxt = x @ x.mT
        x = A * x + (B * xxt + C * xxt @ xxt) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon:
    """parameters: tensors [..., rows, columns]; those of one shape are orthogonalised together."""

    def __init__(self, parameters: list[Tensor], momentum=0.95, weight_decay=0.1):
        self.momentum, self.weight_decay = momentum, weight_decay
        groups: dict[tuple[int, int], list[Tensor]] = {}
        for p in parameters:
            groups.setdefault((p.shape[-2], p.shape[-1]), []).append(p)
        self.groups = [
            (ps, [torch.zeros_like(p, requires_grad=False) for p in ps]) for ps in groups.values()
        ]
        self.orthogonalise = orthogonalise

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for parameters, averages in self.groups:
            rows, columns = parameters[0].shape[-2:]
            gradients = [p.grad for p in parameters]
            torch._foreach_lerp_(averages, gradients, 1 - self.momentum)
            ahead = torch._foreach_lerp(gradients, averages, self.momentum)
            stacked = torch.cat([g.reshape(-1, rows, columns) for g in ahead])
            updates = self.orthogonalise(stacked).split([g.numel() // (rows * columns) for g in ahead])
            # An update's root mean square is 0.2, as AdamW's is.
            size = lr * 0.2 * max(rows, columns) ** 0.5
            torch._foreach_mul_(parameters, 1 - lr * self.weight_decay)
            torch._foreach_add_(
                parameters, [u.view(p.shape) for u, p in zip(updates, parameters)], alpha=-size
            )

    def state(self) -> list[list[Tensor]]:
        return [averages for _, averages in self.groups]

    def restore(self, state: list[list[Tensor]]) -> None:
        for (_, averages), saved in zip(self.groups, state):
            for average, value in zip(averages, saved):
                average.copy_(value)


class Optimiser:
    """The model's optimiser: `lr` is Muon's; AdamW gets `adam` times as much."""

    def __init__(self, model, adam: float = 1.0):
        matrices, vectors = [], []
        for name, p in model.named_parameters():
            whole = p.ndim >= 2 and "embedding" not in name and not name.endswith("gate")
            (matrices if whole else vectors).append(p)
        self.muon = Muon(matrices)
        self.adam_ratio = adam
        self.adam = torch.optim.AdamW(
            vectors, lr=1.0, betas=(0.9, 0.98), eps=1e-10, weight_decay=0.0, foreach=True
        )
        self.parameters = matrices + vectors

    def step(self, lr: float) -> None:
        self.muon.step(lr)
        for group in self.adam.param_groups:
            group["lr"] = lr * self.adam_ratio
        self.adam.step()

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def state(self) -> dict:
        return {"muon": self.muon.state(), "adam": self.adam.state_dict()}

    def restore(self, state: dict) -> None:
        self.muon.restore(state["muon"])
        self.adam.load_state_dict(state["adam"])
