"""The server's arithmetic of one expert layer (docs/numerics.md), bit for bit, in numpy.

    emulate.py --vectors tests/golden/expert_layer/vectors.bin

writes what kernels/expert_layer_test.cc compares the kernels with. Written from the document, not
from the C++ code. Arrays are float32 unless a line says otherwise; numpy rounds each operation once.
"""

import argparse
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

F = np.float32
Array = np.ndarray


# ---- Functions ----


def fma(a: Array, b: Array, c: Array) -> Array:
    """a · b + c with one rounding. The product is exact in double; the sum is rounded to odd there,
    so that rounding it again to float32 is right."""
    p, c = np.float64(a) * np.float64(b), np.float64(c)
    s = np.atleast_1d(p + c)
    with np.errstate(invalid="ignore"):
        back = s - p
        error = (p - (s - back)) + (c - back)
    inexact = np.isfinite(s) & (error != 0) & ((s.view(np.int64) & 1) == 0)
    towards = np.where((error > 0) == (s > 0), 1, -1)
    odd = (s.view(np.int64) + np.where(inexact, towards, 0)).view(np.float64)
    return odd.astype(F).reshape(np.shape(p + c))


def exp(x: Array) -> Array:
    x = np.asarray(x, F)
    magic = F(12582912)
    inside = np.clip(x, F(float.fromhex("-0x1.5d589ep+6")), F(float.fromhex("0x1.62e42ep+6")))
    s = fma(inside, F(float.fromhex("0x1.715476p+0")), magic)
    n = s - magic
    e = s.view(np.int32) - magic.view(np.int32)
    r = fma(n, F(float.fromhex("-0x1.62e400p-1")), inside)
    r = fma(n, F(float.fromhex("-0x1.7f7d1cp-20")), r)
    p = F(1) / F(5040)
    for c in (F(1) / F(720), F(1) / F(120), F(1) / F(24), F(1) / F(6), F(0.5), F(1), F(1)):
        p = fma(p, r, c)
    h = e >> 1
    y = (p * np.ldexp(F(1), h)) * np.ldexp(F(1), e - h)
    y = np.where(x < inside, F(0), np.where(x > inside, F(np.inf), y))
    return np.where(np.isnan(x), x, y).astype(F)


def lane_sum(a: Array, b: Array | None = None) -> Array:
    """Σ a over the last axis, or Σ a · b with a fused step: 32 lanes and a tree."""
    lanes = np.zeros((*a.shape[:-1], 32), F)
    for i in range(a.shape[-1]):
        lane = lanes[..., i % 32]
        lanes[..., i % 32] = lane + a[..., i] if b is None else fma(a[..., i], b[..., i], lane)
    for width in (16, 8, 4, 2, 1):
        lanes = lanes[..., :width] + lanes[..., width : 2 * width]
    return lanes[..., 0]


def silu_mul(gate: Array, up: Array) -> Array:
    return gate / (F(1) + exp(-gate)) * up


def softmax(x: Array) -> Array:
    e = exp(x - x.max(-1, keepdims=True))
    return e / lane_sum(e)[..., None]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    mean = lane_sum(x, x) / F(x.shape[-1])
    r = F(1) / np.sqrt(mean + F(eps))
    return (x * r[..., None]) * weight


# ---- Weights ----


class Int4(NamedTuple):
    """int4 and int8: value = q · scale. q int8 [N, K padded], scale [N, groups] of a half."""

    q: Array
    scale: Array

    def values(self) -> Array:
        group = self.q.shape[1] // self.scale.shape[1]
        return self.q.astype(F) * np.repeat(self.scale, group, 1)


class W4x(NamedTuple):
    """value = (f · q) · d. q int8 [N, K padded], f int8 [N, groups], d float32 [N]."""

    q: Array
    f: Array
    d: Array

    def folded(self) -> Array:
        group = self.q.shape[1] // self.f.shape[1]
        return self.q.astype(np.int32) * np.repeat(self.f.astype(np.int32), group, 1)

    def values(self) -> Array:
        return self.folded().astype(F) * self.d[:, None]


def grouped(w: Array, group: int) -> Array:
    """[N, K] -> [N, groups, group], padded with zeros."""
    n, k = w.shape
    padded = np.zeros((n, -(-k // group) * group), F)
    padded[:, :k] = w
    return padded.reshape(n, -1, group)


def codes(w: Array, scale: Array, low: int = -8, high: int = 7) -> tuple[Array, Array]:
    """w [.., group] by scale [..]: codes as float32 and the squared error, summed in order."""
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, F(0), F(1) / scale)
    q = np.rint(np.clip(w * inverse[..., None], F(low), F(high)))
    d = w - q * scale[..., None]
    error = np.zeros(w.shape[:-1], F)
    for i in range(w.shape[-1]):
        error = error + d[..., i] * d[..., i]
    return q, error


def candidates(w: Array):
    """The scales of int4 in the order in which they are tried."""
    greatest = np.abs(w).max(-1)
    for i in range(7):
        magnitude = greatest / (F(7) + F(i) / F(4))
        yield magnitude
        yield -magnitude


def int4(w: Array, group: int) -> Int4:
    w = grouped(w, group)
    best_q, best, best_scale = np.zeros_like(w), None, np.zeros(w.shape[:-1], F)
    for scale in candidates(w):
        scale = scale.astype(np.float16).astype(F)
        q, error = codes(w, scale)
        better = np.full(error.shape, True) if best is None else error < best
        best = np.where(better, error, np.inf if best is None else best).astype(F)
        best_scale = np.where(better, scale, best_scale)
        best_q = np.where(better[..., None], q, best_q)
    return Int4(best_q.reshape(len(w), -1).astype(np.int8), best_scale)


def int8(w: Array, group: int) -> Int4:
    w = grouped(w, group)
    scale = (np.abs(w).max(-1) / F(127)).astype(np.float16).astype(F)
    q, _ = codes(w, scale, -127, 127)
    return Int4(q.reshape(len(w), -1).astype(np.int8), scale)


def w4x(w: Array, group: int) -> W4x:
    w = grouped(w, group)  # [N, G, g]
    tiny = F(2.0**-100)
    own, least = np.zeros(w.shape[:-1], F), None
    for scale in candidates(w):
        _, error = codes(w, scale)
        better = np.full(error.shape, True) if least is None else error < least
        least = np.where(better, error, np.inf if least is None else least).astype(F)
        own = np.where(better, np.abs(scale), own)
    own = np.where(np.abs(w).max(-1) / F(8.5) < tiny, F(0), own)
    n = len(w)
    row_error, row_d = np.full(n, np.inf), np.zeros(n, F)
    row_f, row_q = np.ones(w.shape[:-1], np.int32), np.zeros_like(w)

    def take(better: Array, error: Array, d: Array, f: Array, q: Array) -> None:
        row_error[better], row_d[better] = error[better], d[better]
        row_f[better], row_q[better] = f[better], q[better]

    for most in (15, 14, 13, 12):
        d = own.max(-1) / F(most)
        usable = d >= tiny
        d = np.where(usable, d, F(1))
        near = np.floor(np.minimum(own / d[:, None], F(15)) + F(0.5)).astype(np.int32)
        f, q, least = np.ones_like(row_f), np.zeros_like(w), np.full(w.shape[:-1], np.inf)
        for step in (-1, 0, 1):
            for sign in (1, -1):
                size = near + step
                trial = sign * size
                trial_q, error = codes(w, d[:, None] * trial.astype(F))
                better = (size >= 1) & (size <= 15) & (error < least)
                least = np.where(better, error, least)
                f, q = np.where(better, trial, f), np.where(better[..., None], trial_q, q)
        error = np.add.accumulate(least, axis=1)[:, -1]  # in double, in order
        take(usable & (error < row_error), error, d, f, q)
    for _ in range(2):
        v = (row_f[..., None] * row_q).reshape(n, -1).astype(np.float64)
        dot = np.add.accumulate(w.reshape(n, -1).astype(np.float64) * v, axis=1)[:, -1]
        square = np.add.accumulate(v * v, axis=1)[:, -1]
        d = np.where(square > 0, dot / np.where(square > 0, square, 1), 0).astype(F)
        usable = (d >= tiny) & (row_d > 0)
        d = np.where(usable, d, F(1))
        q, error = codes(w, d[:, None] * row_f.astype(F))
        error = np.add.accumulate(error.astype(np.float64), axis=1)[:, -1]
        take(usable & (error < row_error), error, d, row_f.copy(), q)
    return W4x(row_q.reshape(n, -1).astype(np.int8), row_f.astype(np.int8), row_d)


def unpack(kind: str, group: int, n: int, k: int, data: bytes) -> Int4 | W4x:
    """A matrix of a package (kernels/packed_weights.h): kind "int4", "int8" or "w4x" in `group`s."""
    padded = -(-k // group) * group
    groups = padded // group

    def up(x: int) -> int:
        return -(-x // 64) * 64

    second = 64 if kind == "w4x" else up(groups * 32)
    values = second + up(groups * 16) if kind == "w4x" else second
    value_bytes = padded * (16 if kind == "int8" else 8)
    panels = np.frombuffer(data, np.uint8).reshape(-(-n // 16), values + up(value_bytes))
    codes = panels[:, values : values + value_bytes]
    if kind == "int8":
        q = codes.view(np.int8).reshape(-1, padded // 4, 16, 4).transpose(0, 2, 1, 3)
    else:  # byte (j, lane, i) holds element 8 j + i in its low and 8 j + 4 + i in its high half
        pairs = codes.reshape(-1, padded // 8, 16, 4)
        q = np.stack([pairs & 15, pairs >> 4], 3).astype(np.int8) - 8  # [panel, j, lane, half, i]
        q = q.transpose(0, 2, 1, 3, 4)
    q = np.ascontiguousarray(q).reshape(-1, padded)[:n]

    def rows(begin: int, count: int, dtype) -> Array:
        part = panels[:, begin : begin + count * 16 * np.dtype(dtype).itemsize]
        lanes = np.ascontiguousarray(part).view(dtype).reshape(-1, count, 16).transpose(0, 2, 1)
        return lanes.reshape(-1, count)[:n]

    if kind == "w4x":
        return W4x(q, rows(second, groups, np.int8), rows(0, 1, F)[:, 0])
    return Int4(q, rows(0, groups, np.float16).astype(F))


# ---- Products ----


def quantise_rows(x: Array, group: int, padded: int) -> tuple[Array, Array]:
    """q int32 [R, padded] and scales [R, padded / group]."""
    rows = np.zeros((len(x), padded), F)
    rows[:, : x.shape[1]] = x
    rows = rows.reshape(len(x), -1, group)
    greatest = np.abs(rows).max(-1)
    zero = greatest < F(2.0**-100)
    safe = np.where(zero, F(1), greatest)
    q = np.clip(np.rint(rows * (F(127) / safe)[..., None]), -127, 127).astype(np.int32)
    q[zero] = 0
    return q.reshape(len(x), -1), np.where(zero, F(0), greatest / F(127)).astype(F)


def product(w: Int4 | W4x | Array, x: Array) -> Array:
    """x [R, K] by w [N, K] -> [R, N], x quantised where w is."""
    if isinstance(w, np.ndarray):
        acc = np.zeros((len(x), len(w)), F)
        for k in range(x.shape[1]):
            acc = fma(x[:, k, None], w[None, :, k], acc)
        return acc
    padded = w.q.shape[1]
    if isinstance(w, W4x):
        q, a_scale = quantise_rows(x, padded, padded)
        total = q @ w.folded().T
        return total.astype(F) * (w.d[None, :] * a_scale)
    groups = w.scale.shape[1]
    group = padded // groups
    q, a_scale = quantise_rows(x, group, padded)
    acc = np.zeros((len(x), len(w.q)), F)
    for g in range(groups):
        part = slice(g * group, (g + 1) * group)
        dot = q[:, part] @ w.q[:, part].astype(np.int32).T
        acc = fma(dot.astype(F), w.scale[None, :, g] * a_scale[:, g, None], acc)
    return acc


class Expert(NamedTuple):
    gate: Int4 | W4x | Array  # [I, H]
    up: Int4 | W4x | Array
    down: Int4 | W4x | Array  # [H, I]


def ffn(w: Expert, x: Array) -> Array:
    return product(w.down, silu_mul(product(w.gate, x), product(w.up, x)))


def route(x: Array, gate: list[Array], top_k: int) -> tuple[Array, Array, Array]:
    """gate: [W] or [Wq, Wk, Wv]. Chosen experts [R, k], their weights, and p [R, E]."""
    if len(gate) == 1:
        logits = product(gate[0], x)
    else:
        q, k, v = (product(w, x) for w in gate)
        a = softmax(q[:, :, None] * k[:, None, :])
        logits = np.zeros_like(q)
        for j in range(q.shape[1]):
            logits = fma(a[:, :, j], v[:, j, None], logits)
    p = softmax(logits)
    chosen = np.argsort(-p, axis=1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(p, chosen, 1)
    total = np.zeros(len(x), F)
    for slot in range(top_k):
        total = total + weights[:, slot]
    return chosen, weights / total[:, None], p


def combine(x: Array, weights: Array, replies: Array) -> Array:
    """x [R, H], weights [R, k], replies [R, k, H]."""
    acc = weights[:, 0, None] * replies[:, 0]
    for slot in range(1, weights.shape[1]):
        acc = fma(weights[:, slot, None], replies[:, slot], acc)
    return x + acc


def expert_layer(
    x: Array, norm: Array, eps: float, gate: list[Array], experts: list[Expert], top_k: int
) -> tuple[Array, Array, Array, Array]:
    """A layer's second half: the new residual stream, normed rows, chosen experts, their weights."""
    h = rms_norm(x, norm, eps)
    chosen, weights, _ = route(h, gate, top_k)
    replies = np.zeros((*chosen.shape, x.shape[1]), F)
    for e, expert in enumerate(experts):
        rows, slots = np.nonzero(chosen == e)
        if len(rows):
            replies[rows, slots] = ffn(expert, h[rows])
    return combine(x, weights, replies), h, chosen, weights


# ---- Vectors ----


def bf16(x: Array) -> Array:
    bits = np.ascontiguousarray(x, F).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(F)


def write_vectors(path: Path) -> None:
    """Records: name (24 bytes, zero-padded), u32 bytes per element (4: f32, 2: bf16, 1: u8), u32 rows,
    u32 columns, the elements. Little-endian."""
    rng = np.random.default_rng(8)
    hidden, middle, experts, top_k, rows, eps = 72, 56, 4, 2, 9, 1e-5
    records: list[tuple[str, int, Array]] = []

    def matrix(name: str, n: int, k: int, scale: float) -> Array:
        w = rng.normal(size=(n, k)).astype(F) * F(scale)
        w *= np.exp(0.7 * rng.normal(size=(n, 1))).astype(F)  # rows differ in size, as trained ones do
        w = bf16(w)
        records.append((name, 2, w))
        return w

    x = rng.normal(size=(rows, hidden)).astype(F) * F(3)
    x[1, 5] = 300  # one great value takes the resolution of its row
    x[2] *= F(1e-3)
    x[3, :40] = 0
    norm = (1 + 0.2 * rng.normal(size=hidden)).astype(F)
    records += [("x", 4, x), ("norm", 4, norm[None])]
    gate = [matrix(f"gate_{part}", experts, hidden, 0.2) for part in "qkv"]
    source = [
        Expert(
            matrix(f"{e}.gate", middle, hidden, 0.15), matrix(f"{e}.up", middle, hidden, 0.15),
            matrix(f"{e}.down", hidden, middle, 0.2),
        )  # fmt: skip
        for e in range(experts)
    ]
    source[0].gate[3] = 0  # an output, and a group, of zeros
    source[0].gate[4, :64] = 0
    for name, quantise, group in (("w4xg64", w4x, 64), ("int4g32", int4, 32)):
        packed = [Expert(*(quantise(w, group) for w in expert)) for expert in source]
        y, h, chosen, weights = expert_layer(x, norm, eps, gate, packed, top_k)
        if name == "w4xg64":  # equal in both
            records += [("h", 4, h), ("chosen", 1, chosen), ("weights", 4, weights)]
        records.append((f"{name}.gate", 4, packed[0].gate.values()[:, :hidden]))
        records.append((f"{name}.expert_1", 4, ffn(packed[1], h)))
        records.append((f"{name}.y", 4, y))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as out:
        for name, size, data in records:
            out.write(name.encode().ljust(24, b"\0") + struct.pack("<III", size, *data.shape))
            if size == 2:
                out.write((data.view(np.uint32) >> 16).astype("<u2").tobytes())
            else:
                out.write(data.astype("<f4" if size == 4 else np.uint8).tobytes())
    print(f"{path}: {len(records)} records, {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--vectors", type=Path, required=True, help="file to write")
    write_vectors(parser.parse_args().vectors)


if __name__ == "__main__":
    main()
