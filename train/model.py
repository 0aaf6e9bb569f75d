"""The model: a Mixtral-shaped decoder whose gate is linear or attention-based.

Shapes: N tokens = B sequences of T, H hidden, I expert width, E experts, K chosen of them, V
vocabulary. Parameters are f32; matrix products run in the type of `compute` (bf16 on a GPU, f32 on
a CPU). The gate is always f32, as in the server.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    vocab: int = 8192
    hidden: int = 384
    layers: int = 8
    heads: int = 6
    kv_heads: int = 2
    ffn: int = 320
    experts: int = 8
    top_k: int = 2
    gate: str = "attention"  # or "linear", or "random": a choice that no weight makes
    theta: float = 10000.0
    eps: float = 1e-5
    context: int = 2048

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @staticmethod
    def load(path: Path, **overrides) -> "Config":
        fields = json.loads(path.read_text())
        return Config(**{**fields, **overrides})

    def parameters(self) -> tuple[int, int]:
        """All parameters, and those that one token uses."""
        kv = self.kv_heads * self.head_dim
        gate = self.experts * self.hidden * (3 if self.gate == "attention" else 1)
        shared = 2 * self.hidden * (self.hidden + kv) + gate + 2 * self.hidden
        expert = 3 * self.hidden * self.ffn
        rest = self.vocab * self.hidden + self.hidden
        return (
            rest + self.layers * (shared + self.experts * expert),
            rest + self.layers * (shared + self.top_k * expert),
        )


class Routing(NamedTuple):
    """How one layer's tokens were routed. probs and logits [N, E], experts and weights [N, K]."""

    logits: Tensor
    probs: Tensor
    experts: Tensor
    weights: Tensor

    def load(self) -> Tensor:
        """Tokens by expert [E]."""
        return F.one_hot(self.experts.detach(), self.probs.shape[-1]).sum((0, 1))


def gate_logits(x: Tensor, weight: Tensor, kind: str) -> Tensor:
    """x [N, H] and weight in f32. attention: weight [3E, H] holds query, key and value."""
    if kind == "linear":
        return F.linear(x, weight)
    q, k, v = F.linear(x, weight).chunk(3, -1)
    attention = torch.softmax(q[:, :, None] * k[:, None, :], -1)
    return (attention * v[:, None, :]).sum(-1)


def route(x: Tensor, weight: Tensor, kind: str, top_k: int, noise: Tensor | None) -> Routing:
    if kind == "random":
        logits = noise
    else:
        logits = gate_logits(x.float(), weight, kind)
    probs = torch.softmax(logits, -1)
    weights, experts = torch.topk(probs, top_k, -1)
    return Routing(logits, probs, experts, weights / weights.sum(-1, keepdim=True))


def balance_loss(probs: Tensor, experts: Tensor) -> Tensor:
    """E · Σ_{k,e} f[k,e] · P[e] of one layer: f the share of tokens whose k-th choice is e, P the
    mean probability. With an even load it is K."""
    e = probs.shape[-1]
    f = F.one_hot(experts, e).float().mean(0)
    return e * (f * probs.mean(0)).sum()


def z_loss(logits: Tensor) -> Tensor:
    return torch.logsumexp(logits, -1).square().mean()


class _Spread(torch.autograd.Function):
    """x [N, H] -> rows [N·K, H] in `order`; backward sums a token's K rows in a fixed order, where
    autograd's own would add with atomics."""

    @staticmethod
    def forward(ctx, x, order, inverse, top_k):
        ctx.save_for_backward(inverse)
        ctx.top_k = top_k
        return x[order // top_k]

    @staticmethod
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        return grad[inverse].view(-1, ctx.top_k, grad.shape[-1]).sum(1), None, None, None


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, order, inverse):
        ctx.save_for_backward(inverse)
        return x[order]

    @staticmethod
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        return grad[inverse], None, None


def quantised_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations of a w4x product: integers in ±127 (in x's type, where they are exact) and the
    row's scale [.., 1]; gradients pass straight through."""
    scale = x.detach().float().abs().amax(-1, keepdim=True) / 127
    scaled = x.float() / scale.clamp_min(2.0**-100)
    return (scaled + (scaled.round() - scaled).detach()).to(x.dtype), scale


class Experts(NamedTuple):
    """A layer's expert weights as a product wants them: gate_up [E, 2I, H], down [E, H, I] in the
    compute type. With quantisation they hold integers f·(q - 8), and the scales one f32 per output."""

    gate_up: Tensor
    down: Tensor
    gate_up_scale: Tensor | None = None  # [E, 2I]
    down_scale: Tensor | None = None  # [E, H]


def experts_grouped(x: Tensor, routing: Routing, w: Experts) -> Tensor:
    """Each expert over its own rows: rows sorted by expert, one grouped product for all experts."""
    e, k = w.gate_up.shape[0], routing.experts.shape[1]
    ids, order = torch.sort(routing.experts.flatten(), stable=True)
    inverse = torch.argsort(order)
    ends = torch.searchsorted(ids, torch.arange(1, e + 1, device=ids.device)).to(torch.int32)
    rows = _Spread.apply(x, order, inverse, k)
    quantised = w.gate_up_scale is not None
    if quantised:
        rows, scale = quantised_rows(rows)
    h = F.grouped_mm(rows, w.gate_up.transpose(1, 2), offs=ends)
    if quantised:
        h = (h.float() * (scale * w.gate_up_scale[ids])).to(x.dtype)
    gate, up = h.chunk(2, -1)
    h = F.silu(gate) * up
    if quantised:
        h, scale = quantised_rows(h)
    y = F.grouped_mm(h, w.down.transpose(1, 2), offs=ends)
    if quantised:
        y = (y.float() * (scale * w.down_scale[ids])).to(x.dtype)
    y = _Permute.apply(y, inverse, order).view(-1, k, x.shape[-1])
    return (y * routing.weights.to(y.dtype)[..., None]).sum(1)


def experts_dense(x: Tensor, routing: Routing, w: Experts) -> Tensor:
    """Every expert over every row, the unchosen ones with weight 0: more arithmetic, but only
    plain products. Also runs where a grouped product does not exist."""
    e, width, hidden = w.gate_up.shape
    n, quantised = x.shape[0], w.gate_up_scale is not None
    share = torch.zeros(n, e, dtype=x.dtype, device=x.device)
    share = share.scatter(1, routing.experts, routing.weights.to(x.dtype))
    rows = x
    if quantised:
        rows, scale = quantised_rows(x)
    h = F.linear(rows, w.gate_up.reshape(e * width, hidden)).view(n, e, width)
    if quantised:
        h = (h.float() * (scale[..., None] * w.gate_up_scale)).to(x.dtype)
    gate, up = h.chunk(2, -1)
    h = F.silu(gate) * up
    if quantised:
        h, scale = quantised_rows(h)
        y = torch.einsum("nei,ehi->neh", h, w.down)
        y = (y.float() * (scale * w.down_scale)).to(x.dtype)
        return (y * share[..., None]).sum(1)
    h = h * share[..., None]
    return F.linear(h.reshape(n, -1), w.down.transpose(0, 1).reshape(hidden, -1))


def experts_chosen(x: Tensor, routing: Routing, w: Experts) -> Tensor:
    """Each expert over its own rows, one after another: the least arithmetic, in shapes that depend on
    the data. For evaluation on a CPU, of weights as they are."""
    y = torch.zeros_like(x)
    for e in range(w.gate_up.shape[0]):
        rows, slots = torch.where(routing.experts == e)
        gate, up = F.linear(x[rows], w.gate_up[e]).chunk(2, -1)
        share = routing.weights[rows, slots].to(x.dtype)[:, None]
        y.index_add_(0, rows, F.linear(F.silu(gate) * up, w.down[e]) * share)
    return y


def expert_product(x: Tensor, w: Experts, grouped: bool):
    if grouped:
        return experts_grouped
    plain = w.gate_up_scale is None and x.device.type == "cpu"
    return experts_chosen if plain and not torch.is_grad_enabled() else experts_dense


def attention(x: Tensor, p: "Shared", cos: Tensor, sin: Tensor, c: Config, dtype) -> Tensor:
    b, t, _ = x.shape
    h = F.rms_norm(x, (c.hidden,), p.attention_norm, c.eps).to(dtype)
    d = c.head_dim
    q = F.linear(h, p.q.to(dtype)).view(b, t, c.heads, d).transpose(1, 2)
    k = F.linear(h, p.k.to(dtype)).view(b, t, c.kv_heads, d).transpose(1, 2)
    v = F.linear(h, p.v.to(dtype)).view(b, t, c.kv_heads, d).transpose(1, 2)

    def rotate(y: Tensor) -> Tensor:
        first, second = y.float().chunk(2, -1)
        turned = [first * cos - second * sin, second * cos + first * sin]
        return torch.cat(turned, -1).to(dtype)

    group = c.heads // c.kv_heads
    heads = F.scaled_dot_product_attention(
        rotate(q),
        rotate(k).repeat_interleave(group, 1),
        v.repeat_interleave(group, 1),
        is_causal=True,
    )
    return x + F.linear(heads.transpose(1, 2).reshape(b, t, -1), p.o.to(dtype)).to(x.dtype)


def layer_forward(
    x: Tensor, p: "Shared", w: Experts, cos: Tensor, sin: Tensor, noise: Tensor | None, c: Config,
    grouped: bool,
) -> tuple[Tensor, Routing]:  # fmt: skip
    """x [B, T, H] in f32 or bf16: the residual stream keeps its type."""
    dtype = w.gate_up.dtype
    x = attention(x, p, cos, sin, c, dtype)
    h = F.rms_norm(x, (c.hidden,), p.ffn_norm, c.eps).reshape(-1, c.hidden)
    routing = route(h, p.gate, c.gate, c.top_k, noise)
    y = expert_product(x, w, grouped)(h.to(dtype), routing, w)
    return x + y.view(x.shape).to(x.dtype), routing


class Shared(NamedTuple):
    """A layer's weights but for its experts: plain tensors, so that one compiled graph serves all
    layers."""

    attention_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    ffn_norm: Tensor
    gate: Tensor


class Layer(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        kv = c.kv_heads * c.head_dim
        rows = c.experts * (3 if c.gate == "attention" else 1)

        def matrix(*shape: int, gain: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * (gain / math.sqrt(shape[-1])))

        # What is added to the residual stream starts small, the more so the deeper the model is.
        small = 1 / math.sqrt(2 * c.layers)
        self.attention_norm = nn.Parameter(torch.ones(c.hidden))
        self.q, self.k = matrix(c.hidden, c.hidden), matrix(kv, c.hidden)
        self.v, self.o = matrix(kv, c.hidden), matrix(c.hidden, c.hidden, gain=small)
        self.ffn_norm = nn.Parameter(torch.ones(c.hidden))
        self.gate = matrix(rows, c.hidden, gain=0.5)
        self.gate_up = matrix(c.experts, 2 * c.ffn, c.hidden)
        self.down = matrix(c.experts, c.hidden, c.ffn, gain=small)

    def shared(self) -> Shared:
        return Shared(*(getattr(self, name) for name in Shared._fields))


@dataclass
class Losses:
    """Means over a batch. `load` [L, E]: tokens by layer and expert."""

    text: Tensor  # nats per token
    balance: Tensor
    z: Tensor
    load: Tensor


class Model(nn.Module):
    """grouped: use grouped products where there is a choice. quantiser: None, or a function of a
    layer that gives its Experts (train/quant.py)."""

    def __init__(self, config: Config, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.config = config
        self.embedding = nn.Parameter(torch.randn(config.vocab, config.hidden) * 0.02)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.hidden))
        frequencies = config.theta ** (
            -torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        )
        angles = torch.arange(config.context, dtype=torch.float64)[:, None] * frequencies
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        self.compute = torch.float32
        self.grouped = False
        self.quantiser = None
        self.layer_forward = layer_forward
        self.token_loss = token_loss

    def use_device(self, device: str, grouped: bool) -> "Model":
        """On a GPU: bf16 products, compiled layers."""
        self.to(device)
        if device == "cuda":
            self.compute, self.grouped = torch.bfloat16, grouped
            self.layer_forward = torch.compile(layer_forward, dynamic=False)
            self.token_loss = torch.compile(token_loss, dynamic=False)
        return self

    def experts(self, layer: Layer) -> Experts:
        if self.quantiser is not None:
            return self.quantiser(layer, self.compute)
        return Experts(layer.gate_up.to(self.compute), layer.down.to(self.compute))

    def hidden(self, ids: Tensor, noise: Tensor | None = None) -> tuple[Tensor, list[Routing]]:
        """ids [B, T] -> normed hidden states [B, T, H]. noise [L, B·T, E]: a random gate's logits."""
        t = ids.shape[1]
        x = F.embedding(ids, self.embedding).to(self.compute)
        routings = []
        for i, layer in enumerate(self.layers):
            x, routing = self.layer_forward(
                x, layer.shared(), self.experts(layer), self.cos[:t], self.sin[:t],
                None if noise is None else noise[i], self.config, self.grouped,
            )  # fmt: skip
            routings.append(routing)
        return F.rms_norm(x, (self.config.hidden,), self.norm, self.config.eps), routings

    def logits(self, ids: Tensor, noise: Tensor | None = None) -> Tensor:
        x, _ = self.hidden(ids, noise)
        return F.linear(x.to(self.compute), self.embedding.to(self.compute)).float()

    def losses(self, ids: Tensor, noise: Tensor | None = None) -> Losses:
        """ids [B, T + 1]: each position predicts the next."""
        x, routings = self.hidden(ids[:, :-1], noise)
        text = self.token_loss(
            x.reshape(-1, self.config.hidden), self.embedding.to(self.compute), ids[:, 1:].flatten()
        )
        return Losses(
            text.mean(),
            torch.stack([balance_loss(r.probs, r.experts) for r in routings]).mean(),
            torch.stack([z_loss(r.logits) for r in routings]).mean(),
            torch.stack([r.load() for r in routings]),
        )


def token_loss(x: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
    """Nats of each token [N]."""
    return F.cross_entropy(F.linear(x.to(embedding.dtype), embedding).float(), targets, reduction="none")


def to_dict(config: Config) -> dict:
    return dataclasses.asdict(config)
