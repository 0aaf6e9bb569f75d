"""The weight formats of the server (docs/numerics.md) in torch: quantising and what it loses.

Everything works on the last dimension, K, of any number of rows. K must be a multiple of the group.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from model import Experts


class W4x(NamedTuple):
    """value = d · f · q: d [..., 1] f32 a row, f [..., K/g] in ±15 a group, q [..., K] in -8..7."""

    d: Tensor
    f: Tensor
    q: Tensor


def _codes(groups: Tensor, scale: Tensor) -> Tensor:
    inverse = torch.where(scale == 0, 0.0, 1 / torch.where(scale == 0, 1.0, scale))
    return (groups * inverse).clamp(-8, 7).round()


def _best_scale(groups: Tensor, half: bool) -> Tensor:
    """Of groups [..., g] the scale of least squared error among a/7 .. a/8.5 with both signs."""
    greatest = groups.abs().amax(-1, keepdim=True)
    best = torch.zeros_like(greatest)
    least = torch.full_like(greatest, float("inf"))
    for i in range(7):
        for sign in (1, -1):
            scale = sign * (greatest / (7 + i / 4))
            if half:
                scale = scale.half().float()
            error = (groups - _codes(groups, scale) * scale).square().sum(-1, keepdim=True)
            better = error < least
            best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def int4(w: Tensor, group: int) -> Tensor:
    """w as int4 in groups of `group` gives it back."""
    groups = w.unflatten(-1, (-1, group))
    scale = _best_scale(groups, half=True)
    return (_codes(groups, scale) * scale).flatten(-2)


def int8(w: Tensor, group: int) -> Tensor:
    groups = w.unflatten(-1, (-1, group))
    scale = (groups.abs().amax(-1, keepdim=True) / 127).half().float()
    inverse = torch.where(scale == 0, 0.0, 1 / torch.where(scale == 0, 1.0, scale))
    return ((groups * inverse).clamp(-127, 127).round() * scale).flatten(-2)


def w4x(w: Tensor, group: int) -> W4x:
    """The packer's search; sums in f32 where the packer has double, so a tie may fall otherwise."""
    groups = w.unflatten(-1, (-1, group))
    own = _best_scale(groups, half=False).abs()  # [..., G, 1]
    best_error = torch.full_like(own[..., :1, 0], float("inf"))
    best_d = torch.zeros_like(best_error)
    best_f = torch.ones_like(own[..., 0])
    for most in (15, 14, 13, 12):
        d = own.amax(-2) / most  # [..., 1]
        ratio = torch.where(d > 0, own[..., 0] / torch.where(d > 0, d, 1.0), 0.0).clamp_max(15)
        least = torch.full_like(ratio, float("inf"))
        chosen = torch.ones_like(ratio)
        for step in (-1, 0, 1):
            for sign in (1, -1):
                f = (ratio.round() + step).clamp(1, 15) * sign
                scale = (d * f)[..., None]
                error = (groups - _codes(groups, scale) * scale).square().sum(-1)
                better = error < least
                least, chosen = torch.where(better, error, least), torch.where(better, f, chosen)
        total = least.sum(-1, keepdim=True)
        better = total < best_error
        best_error = torch.where(better, total, best_error)
        best_d = torch.where(better, d, best_d)
        best_f = torch.where(better, chosen, best_f)
    for _ in range(2):  # the row's scale that fits the codes best
        codes = _codes(groups, (best_d * best_f)[..., None])
        unscaled = best_f[..., None] * codes
        norm = unscaled.square().sum((-1, -2))[..., None]
        d = torch.where(norm > 0, (groups * unscaled).sum((-1, -2))[..., None] / norm, best_d)
        again = _codes(groups, (d * best_f)[..., None])
        error = (groups - d[..., None] * best_f[..., None] * again).square().sum((-1, -2))[..., None]
        best_d = torch.where(error < best_error, d, best_d)
        best_error = torch.minimum(error, best_error)
    codes = _codes(groups, (best_d * best_f)[..., None])
    return W4x(best_d, best_f, codes.flatten(-2))


def w4x_values(w: Tensor, group: int) -> Tensor:
    scales = w4x(w, group)
    return _folded(scales, group) * scales.d


def _folded(scales: W4x, group: int) -> Tensor:
    return (scales.f[..., None] * scales.q.unflatten(-1, (-1, group))).flatten(-2)


class W4xTraining:
    """Quantisation-aware training of the experts: a `quantiser` of train/model.py. A product of the
    server is float(Σ f·q·a) · (d · a_scale) with integers that bf16 holds exactly, so a bf16 product
    with f32 sums is the server's, but for the rounding of its result to bf16. Row scales and group
    factors are searched anew every `every` steps; the codes follow the weights at each step."""

    def __init__(self, group: int, every: int = 16):
        self.group, self.every = group, every
        self.scales: dict[int, tuple[W4x, W4x]] = {}
        self.folds = _fold

    def use_compiler(self) -> "W4xTraining":
        self.folds = torch.compile(_fold, dynamic=False)
        return self

    @torch.no_grad()
    def refresh(self, layers, step: int) -> None:
        if step % self.every == 0 or not self.scales:
            for layer in layers:
                self.scales[id(layer)] = (
                    w4x(layer.gate_up.detach(), self.group),
                    w4x(layer.down.detach(), self.group),
                )

    def __call__(self, layer, dtype) -> Experts:
        gate_up, down = self.scales[id(layer)]
        return Experts(
            self.folds(layer.gate_up, gate_up.d, gate_up.f, self.group, dtype),
            self.folds(layer.down, down.d, down.f, self.group, dtype),
            gate_up.d[..., 0],
            down.d[..., 0],
        )


def _fold(w: Tensor, d: Tensor, f: Tensor, group: int, dtype) -> Tensor:
    """f · q as integers in `dtype`; the gradient is that of w / d."""
    scaled = w / torch.where(d == 0, 1.0, d)
    groups = scaled.detach().unflatten(-1, (-1, group)) / f[..., None]
    whole = (f[..., None] * groups.clamp(-8, 7).round()).flatten(-2)
    return (scaled + (whole - scaled).detach()).to(dtype)


@torch.no_grad()
def round_trip(model, experts: str, group: int) -> None:
    """Replaces a model's weights by what the server's formats keep of them: experts "int4" or "w4x",
    and with `rest` attention and embedding in int8, in groups of the same size as `octet pack` does."""
    give_back = {"int4": partial(int4, group=group), "w4x": partial(w4x_values, group=group)}[experts]
    for layer in model.layers:
        for name in ("gate_up", "down"):
            getattr(layer, name).copy_(give_back(getattr(layer, name)))
        for name in ("q", "k", "v", "o"):
            getattr(layer, name).copy_(int8(getattr(layer, name), group))
    model.embedding.copy_(int8(model.embedding, group))
