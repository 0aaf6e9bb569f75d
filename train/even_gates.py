"""Evens the load of a trained model's experts by its gates alone.

    even_gates.py runs/tiny/model OUT.pt --data data

The balance loss of training works through the mean probability, and a gate whose probabilities are
nearly equal can satisfy it while a few experts take most tokens. Here each layer's gate, first to
last, learns on recorded inputs to keep its probabilities (KL divergence) while the share of tokens
that choose an expert, made smooth around the threshold between chosen and not, goes to K/E, on
documents and on conversations alike. Nothing else changes. OUT.pt holds bf16 weights, which export.py
takes; --measure prints what it gained and cost on so many held-out bytes.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import sentencepiece as spm
import torch
import torch.nn.functional as F

from data import BOS, chat_ids, conversations
from evaluate import figures, held_out_sets
from export import load
from model import Config, Model, attention, experts_chosen, gate_logits, route, to_dict


def sample_windows(data: Path, tokens: int, length: int, seed: int) -> list[torch.Tensor]:
    """Windows [n, length] of training documents and of training conversations."""
    rng = random.Random(seed)
    stream = np.fromfile(data / "documents.bin", np.uint16)
    starts = np.flatnonzero(stream == BOS)
    text: list[int] = []
    while len(text) < tokens:
        begin = starts[rng.randrange(len(starts))]
        text += stream[begin : begin + length].tolist()
    tokenizer = spm.SentencePieceProcessor(model_file=str(data / "tokenizer.model"))
    chats: list[int] = []
    for turns in conversations(data, "train", seed):
        chats += chat_ids(tokenizer, turns)
        if len(chats) >= tokens:
            break
    count = tokens // length
    return [torch.tensor(ids[: count * length]).view(count, length) for ids in (text, chats)]


def smooth_load(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Share of tokens that choose each expert, E/K times it: 1 is even. As wide a slope as a tenth of
    the logits' own spread."""
    best = torch.topk(logits, top_k + 1, -1).values
    threshold = (best[:, top_k - 1 : top_k] + best[:, top_k:]) / 2
    slope = 0.1 * logits.detach().std(-1).mean() + 1e-6
    chosen = torch.sigmoid((logits - threshold) / slope)
    return chosen.mean(0) * logits.shape[-1] / chosen.sum(-1).mean().detach()


def even_gate(h: list[torch.Tensor], weight: torch.Tensor, c: Config, keep: float, steps: int):
    """A new gate weight from the inputs h of each domain [n, H]."""
    with torch.no_grad():
        old = [torch.softmax(gate_logits(x, weight, c.gate), -1) for x in h]
    new = weight.clone().requires_grad_()
    optimiser = torch.optim.Adam([new], lr=0.03 * weight.std().item())
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.03 * weight.std().item() * (1 - step / steps)
        loss = 0.0
        for x, p in zip(h, old):
            logits = gate_logits(x, new, c.gate)
            loss = loss + keep * F.kl_div(torch.log_softmax(logits, -1), p, reduction="batchmean")
            uneven = smooth_load(logits, c.top_k) - 1
            # The greatest share is what the slowest worker computes.
            loss = loss + uneven.square().mean() + 0.5 * F.relu(uneven - 0.1).amax()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return new.detach()


def worst_load(h: torch.Tensor, weight: torch.Tensor, c: Config) -> float:
    load = route(h, weight, c.gate, c.top_k, None).load().float()
    return (load.max() / load.mean()).item()


@torch.no_grad()
def even_gates(model: Model, windows: list[torch.Tensor], keep: float, steps: int, log=print) -> None:
    c = model.config
    states = [F.embedding(w, model.embedding) for w in windows]
    for number, layer in enumerate(model.layers):
        attended, inputs = [], []
        for x in states:
            t = x.shape[1]
            parts = [attention(p, layer.shared(), model.cos[:t], model.sin[:t], c, torch.float32)
                     for p in x.split(8)]  # fmt: skip
            attended.append(torch.cat(parts))
            h = F.rms_norm(attended[-1], (c.hidden,), layer.ffn_norm, c.eps)
            inputs.append(h.reshape(-1, c.hidden))
        before = [worst_load(h, layer.gate, c) for h in inputs]
        with torch.enable_grad():
            gate = even_gate(inputs, layer.gate.detach().clone(), c, keep, steps)
        layer.gate.copy_(gate)
        layer.gate.copy_(layer.gate.to(torch.bfloat16).float())
        after = [worst_load(h, layer.gate, c) for h in inputs]
        log(f"layer {number}: max/mean load {before[0]:.2f} -> {after[0]:.2f} on documents, "
            f"{before[1]:.2f} -> {after[1]:.2f} on conversations")
        experts = model.experts(layer)
        for i, h in enumerate(inputs):
            routing = route(h, layer.gate, c.gate, c.top_k, None)
            y = experts_chosen(h, routing, experts)
            states[i] = attended[i] + y.view(attended[i].shape)


def measure(model: Model, sets: dict[str, tuple[list[int], int]], name: str) -> None:
    for what, (ids, size) in sets.items():
        f = figures(model, ids, size)
        print(f"{name}: {f['bits_per_byte']:.4f} bits per byte of held-out {what}, worst load "
              f"{max(f['worst_load']):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path, help="release.py's folder or train.py's last.pt")
    parser.add_argument("out", type=Path, help=".pt file")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=24_576, help="of documents and of conversations")
    parser.add_argument("--keep", type=float, default=1.0, help="weight of the KL divergence")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--measure", type=int, default=120_000, metavar="BYTES",
        help="of held-out text and of chats, before and after; 0: not",
    )  # fmt: skip
    args = parser.parse_args()
    sets = held_out_sets(args.data, args.measure) if args.measure else {}
    model = load(args.checkpoint)
    for p in model.parameters():  # only gates differ between the two measurements
        p.data = p.data.to(torch.bfloat16).float()
    measure(model, sets, "before")
    even_gates(model, sample_windows(args.data, args.tokens, 512, args.seed), args.keep, args.steps)
    measure(model, sets, "after")
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    torch.save({"config": to_dict(model.config), "model": state}, args.out)


if __name__ == "__main__":
    main()
