"""Loss against size: how much of the experts a model can lose.

    prune.py runs/tiny/model --data data --out prune.json
    prune.py runs/tiny/model ... --finetune 200 --bin data/train.bin --device cuda

1. Magnitude: the smallest 0, 10, .. 50 % of each expert matrix are zero; what a level has lost, the
   next ones have too.
2. Experts: each layer keeps the 8, 6, 4 experts that it uses most on a calibration part of the
   held-out ids, which is not measured; the gate chooses among the kept ones.

Measured in f32 on held-out text and conversations. With --finetune each level trains so many steps
with its mask held, from where the level before ended.
"""

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import sentencepiece as spm
import torch
from torch import Tensor

from data import Batches
from export import load
from heldout import Window, windows
from model import Model
from optim import Optimiser
from serve_eval import bits_per_byte, torch_logprobs
from train import read_stream

LEVELS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
EXPERT_MATRICES = ("gate_up", "down")


# ---- Magnitude ----


def magnitude_mask(w: Tensor, share: float, inside: Tensor | None) -> Tensor:
    """True where a weight stays. w [E, rows, columns]: `share` of each expert's matrix goes, first
    what `inside` (the level before) has lost."""
    size = w.abs().clone()
    if inside is not None:
        size[~inside] = -1.0
    mask = torch.ones_like(w, dtype=torch.bool)
    for flat, out in zip(size.flatten(1), mask.view(w.shape[0], -1)):
        count = round(share * flat.numel())
        # A stable order: which of several equal weights goes does not depend on the machine.
        out[torch.sort(flat, stable=True).indices[:count]] = False
    return mask


def magnitude_masks(model: Model, share: float, inside: list | None) -> list[dict[str, Tensor]]:
    out = []
    for i, layer in enumerate(model.layers):
        masks = {}
        for name in EXPERT_MATRICES:
            w = getattr(layer, name).detach()
            before = None if inside is None else inside[i][name]
            if name == "gate_up":  # gate and up are two matrices
                halves = [None, None] if before is None else before.chunk(2, 1)
                parts = [magnitude_mask(p, share, b) for p, b in zip(w.chunk(2, 1), halves)]
                masks[name] = torch.cat(parts, 1)
            else:
                masks[name] = magnitude_mask(w, share, before)
        out.append(masks)
    return out


@torch.no_grad()
def apply_masks(model: Model, masks: list[dict[str, Tensor]]) -> None:
    for layer, layer_masks in zip(model.layers, masks):
        for name, mask in layer_masks.items():
            getattr(layer, name).mul_(mask)


# ---- Whole experts ----


def usage(model: Model, parts: list[Window]) -> Tensor:
    """Tokens [L, E]."""
    total = torch.zeros(model.config.layers, model.config.experts)
    device = model.embedding.device
    with torch.no_grad():
        for w in parts:
            _, routings = model.hidden(torch.tensor([w.ids], device=device))
            for i, r in enumerate(routings):
                total[i] += r.load().cpu()
    return total


@torch.no_grad()
def keep_experts(model: Model, used: Tensor, count: int) -> Model:
    """A model of `count` experts a layer: the most used ones, in their order."""
    c = dataclasses.replace(model.config, experts=count)
    small = Model(c, seed=0)
    state = model.state_dict()
    rows = 3 if c.gate == "attention" else 1
    for i in range(c.layers):
        kept = torch.sort(torch.argsort(used[i], descending=True, stable=True)[:count]).values
        kept = kept.to(model.embedding.device)
        p = f"layers.{i}."
        for name in EXPERT_MATRICES:
            state[p + name] = state[p + name][kept]
        # An attention gate attends to the kept experts alone: its rows are query, key and value.
        parts = state[p + "gate"].chunk(rows)
        state[p + "gate"] = torch.cat([part[kept] for part in parts])
    small.load_state_dict(state)
    small.to(model.embedding.device)
    small.compute, small.grouped = model.compute, model.grouped
    return small.eval()


# ---- Training between levels ----


def finetune(model: Model, args, masks: list[dict[str, Tensor]] | None) -> None:
    """--finetune steps at a rate that falls to 0; weights that are masked stay 0."""
    device = model.embedding.device
    stream = read_stream(args.bin, str(device))
    batches = Batches(stream, args.batch, args.length, seed=args.seed)
    optimiser = Optimiser(model)
    model.train()
    if device.type == "cuda":
        model.compute = torch.bfloat16
    for step in range(args.finetune):
        losses = model.losses(batches.at(step))
        (losses.text + 0.01 * losses.balance + 1e-3 * losses.z).backward()
        if masks is not None:
            for layer, layer_masks in zip(model.layers, masks):
                for name, mask in layer_masks.items():
                    getattr(layer, name).grad.mul_(mask)
        optimiser.step(args.lr * (1 - step / args.finetune))
        optimiser.zero_grad()
        if masks is not None:  # an orthogonalised update also moves what has no gradient
            apply_masks(model, masks)
    model.compute = torch.float32
    model.eval()


# ---- Report ----


def measure(model: Model, sets: dict[str, list[Window]]) -> dict:
    return {
        f"bits_per_byte_{name}": bits_per_byte([torch_logprobs(model, w.ids) for w in parts], parts)
        for name, parts in sets.items()
    }


def expert_weights(model: Model) -> tuple[int, int]:
    """Weights of experts that are not zero, and all other parameters."""
    experts = sum(
        int(torch.count_nonzero(getattr(layer, name).detach()))
        for layer in model.layers for name in EXPERT_MATRICES
    )  # fmt: skip
    shapes = sum(getattr(layer, n).numel() for layer in model.layers for n in EXPERT_MATRICES)
    return experts, sum(p.numel() for p in model.parameters()) - shapes


def row(model: Model, sets, **what) -> dict:
    started = time.monotonic()
    experts, rest = expert_weights(model)
    out = {**what, "expert_weights": experts, "other_weights": rest, **measure(model, sets)}
    figures = ", ".join(f"{k} {v:.4f}" for k, v in out.items() if k.startswith("bits"))
    seconds = time.monotonic() - started
    print(f"{what}: {experts + rest} weights, {figures} ({seconds:.0f} s)", flush=True)
    return out


def fresh(args) -> Model:
    model = load(args.checkpoint).to(args.device)
    # Grouped products exist for bf16; plain ones in f32 are what is measured.
    model.compute, model.grouped = torch.float32, False
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="release.py's folder or train.py's last.pt")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with heldout-*.jsonl and tokenizer.model"
    )
    parser.add_argument("--bytes", type=int, default=40_000, help="measured, of text and of chats")
    parser.add_argument("--calibrate", type=int, default=40_000, help="bytes that choose experts")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--finetune", type=int, default=0, help="steps at each level")
    parser.add_argument("--bin", type=Path, help="stream to train on, with --finetune")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    if args.finetune and args.bin is None:
        parser.error("--finetune needs --bin")
    tokenizer = spm.SentencePieceProcessor(model_file=str(args.data / "tokenizer.model"))
    sets, calibration = {}, []
    for part in ("text", "chats"):
        size = args.calibrate + args.bytes
        both = windows(tokenizer, args.data, part, size, args.window, args.seed)
        size, cut = 0, 0
        while cut < len(both) - 1 and size < args.calibrate:
            size, cut = size + both[cut].bytes, cut + 1
        calibration += both[:cut]
        sets[part] = both[cut:]
    report = {"magnitude": [], "experts": []}

    model, masks = fresh(args), None
    for share in LEVELS:
        masks = magnitude_masks(model, share, masks)
        apply_masks(model, masks)
        if args.finetune:
            finetune(model, args, masks)
        report["magnitude"].append(row(model, sets, share=share))

    model = fresh(args)
    experts = model.config.experts
    for count in sorted({experts, math.ceil(experts * 3 / 4), experts // 2}, reverse=True):
        if count < model.config.top_k:
            break
        if count < model.config.experts:
            model = keep_experts(model, usage(model, calibration), count)
        if args.finetune:
            finetune(model, args, None)
        report["experts"].append(row(model, sets, experts=count))

    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
