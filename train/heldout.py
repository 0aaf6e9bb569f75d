"""Windows of held-out text and conversations, each a document or a conversation by itself.

Without torch: other models are scored on them too.
"""

import json
import random
from pathlib import Path
from typing import NamedTuple

from data import BOS, EOS, ROLES, chat_ids, escaped

LAST_SPECIAL = EOS + len(ROLES)  # ids up to it stand for no text


class Window(NamedTuple):
    ids: list[int]
    bytes: int  # of the text of ids[1:]


def text_bytes(tokenizer, ids: list[int]) -> int:
    """Bytes of text that the ids stand for; 0 for role markers and the like."""
    total = 0
    for i in ids:
        if i <= LAST_SPECIAL:
            continue
        piece = tokenizer.id_to_piece(i)
        total += 1 if tokenizer.is_byte(i) else len(piece.replace("\u2581", " ").encode())
    return total


def plain_text(tokenizer, ids: list[int]) -> str:
    """The text of the ids; where role markers and the like stood between two parts, a line break. A
    character of which the window's end cut off bytes is left out."""
    parts: list[list[int]] = [[]]
    for i in ids:
        if i <= LAST_SPECIAL:
            parts.append([])
        else:
            parts[-1].append(i)
    return "\n".join(tokenizer.decode(part) for part in parts if part).rstrip("\ufffd")


def windows(tokenizer, data: Path, part: str, size: int, longest: int, seed: int) -> list[Window]:
    """About `size` bytes of held-out windows of at most `longest` ids, part "text" or "chats", the
    same for the same seed. Records are drawn at random: in the files they are sorted by source."""
    with open(data / f"heldout-{part}.jsonl") as lines:
        records = [json.loads(line) for line in lines]
    random.Random(seed).shuffle(records)
    out, total = [], 0
    for record in records:
        if total >= size:
            break
        if part == "text":  # as data.encode_documents writes it
            ids = [BOS, *tokenizer.encode(escaped(record["text"])), EOS]
        else:
            ids = chat_ids(tokenizer, record["turns"])
        ids = ids[:longest]
        if len(ids) < 2:
            continue
        out.append(Window(ids, text_bytes(tokenizer, ids[1:])))
        total += out[-1].bytes
    return out
