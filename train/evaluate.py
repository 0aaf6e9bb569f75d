"""Loss and routing of a model in torch on held-out ids."""

import math
import sys
from pathlib import Path

import sentencepiece as spm
import torch

from heldout import windows
from model import Model

LN2 = math.log(2)
LENGTH = 1024  # of a window


def held_out_ids(data: Path, what: str, limit: int) -> tuple[list[int], int]:
    """Ids of held-out "text" or "chats", about `limit` bytes of text of all sources, and the number of
    bytes. The same on every call."""
    tokenizer = spm.SentencePieceProcessor(model_file=str(data / "tokenizer.model"))
    parts = windows(tokenizer, data, what, limit, sys.maxsize, seed=1)
    return [i for w in parts for i in w.ids], sum(w.bytes for w in parts)


def held_out_sets(data: Path, limit: int) -> dict[str, tuple[list[int], int]]:
    """held_out_ids of both kinds. Exits where there is too little to measure."""
    sets = {what: held_out_ids(data, what, limit) for what in ("text", "chats")}
    for what, (ids, _) in sets.items():
        if len(ids) <= LENGTH:
            raise SystemExit(
                f"{data}/heldout-{what}.jsonl: {len(ids)} ids in about {limit} bytes are too few, a window "
                f"takes {LENGTH + 1}; data.py writes it, with conversations of distill.py"
            )
    return sets


@torch.no_grad()
def figures(model: Model, ids: list[int], size: int, length: int = LENGTH, batch: int = 16) -> dict:
    """Over windows of `length` ids: bits per byte of the text, and by layer the load (tokens by
    expert), its max/mean and the mean entropy of the gate in bits."""
    c = model.config
    device = model.embedding.device
    stream = torch.tensor(ids, device=device)
    pieces = stream[: (len(ids) - 1) // length * length + 1].unfold(0, length + 1, length)
    nats, tokens = 0.0, 0
    load = torch.zeros(c.layers, c.experts, device=device)
    entropy = torch.zeros(c.layers, device=device)
    generator = torch.Generator(device).manual_seed(1)
    if device.type == "cpu":
        batch = 2  # as fast as more, in less memory
    else:  # a last batch of another size would compile everything again
        pieces = pieces[: max(1, len(pieces) // batch) * batch]
    for part in pieces.split(batch):
        shape = (c.layers, part.shape[0] * length, c.experts)
        noise = torch.randn(shape, device=device, generator=generator) if c.gate == "random" else None
        x, routings = model.hidden(part[:, :-1], noise)
        loss = model.token_loss(
            x.reshape(-1, c.hidden), model.embedding.to(model.compute), part[:, 1:].flatten()
        )
        nats += loss.double().sum().item()
        tokens += loss.numel()
        for i, r in enumerate(routings):
            load[i] += r.load()
            entropy[i] += -(r.probs * r.probs.clamp_min(1e-9).log()).sum() / LN2
    share = tokens / len(ids)  # of the bytes, those in whole windows
    return {
        "bits_per_byte": nats / LN2 / (size * share),
        "nats_per_token": nats / tokens,
        "tokens": tokens,
        "load": load.int().tolist(),
        "worst_load": (load.amax(1) / load.mean(1)).tolist(),
        "gate_entropy": (entropy / tokens).tolist(),
    }
