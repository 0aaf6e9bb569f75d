"""Loss and routing of a model in torch on held-out ids."""

import json
import math
from pathlib import Path

import torch

from data import BOS, EOS, chat_ids
from model import Model

LN2 = math.log(2)


def held_out_ids(data: Path, what: str, limit: int) -> tuple[list[int], int]:
    """Ids of held-out "text" or "chats", up to `limit` bytes of text, and the number of bytes."""
    import sentencepiece as spm

    tokenizer = spm.SentencePieceProcessor(model_file=str(data / "tokenizer.model"))
    ids: list[int] = []
    size = 0
    with open(data / f"heldout-{what}.jsonl") as lines:
        for line in lines:
            record = json.loads(line)
            if what == "text":
                text = record["text"].replace("<|", "< |")
                ids += [BOS, *tokenizer.encode(text), EOS]
                size += len(text.encode())
            else:
                ids += chat_ids(tokenizer, record["turns"])
                size += sum(len(part.encode()) for turn in record["turns"] for part in turn)
            if size > limit:
                break
    return ids, size


@torch.no_grad()
def figures(model: Model, ids: list[int], size: int, length: int = 1024, batch: int = 16) -> dict:
    """Over windows of `length` ids: bits per byte of the text, and by layer the load (tokens by
    expert), its max/mean and the mean entropy of the gate in bits."""
    c = model.config
    device = model.embedding.device
    stream = torch.tensor(ids, device=device)
    windows = stream[: (len(ids) - 1) // length * length + 1].unfold(0, length + 1, length)
    nats, tokens = 0.0, 0
    load = torch.zeros(c.layers, c.experts, device=device)
    entropy = torch.zeros(c.layers, device=device)
    generator = torch.Generator(device).manual_seed(1)
    # A last batch of another size would compile everything again.
    windows = windows[: max(1, len(windows) // batch) * batch]
    for part in windows.split(batch):
        shape = (c.layers, part.shape[0] * length, c.experts)
        noise = torch.randn(shape, device=device, generator=generator) if c.gate == "random" else None
        x, routings = model.hidden(part[:, :-1], noise)
        loss = model.token_loss(
            x.reshape(-1, c.hidden), model.embedding.to(model.compute), part[:, 1:].flatten()
        )
        nats += loss.double().sum().item()
        tokens += loss.numel()
        for i, r in enumerate(routings):
            load[i] += torch.nn.functional.one_hot(r.experts, c.experts).sum((0, 1))
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
