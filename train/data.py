"""From documents and conversations to token ids.

    data.py tokenizer --data train/data [--vocab 8192]   # trains train/data/tokenizer.model
    data.py documents --data train/data   # writes documents.bin, heldout-text.jsonl
    data.py chats --data train/data       # writes train.bin, anneal.bin, heldout-chats.jsonl

Reads corpus-{train,heldout}.jsonl (corpus.py) and distilled-*.jsonl.xz (distill.py). A held-out tenth
of the conversations is chosen by a hash of the question. train.bin is one stream of u16: documents
`<s> ids </s>` and conversations in the form of CHAT_TEMPLATE, shuffled, one after another. anneal.bin,
for the end of training, has all conversations and a part of the documents.
"""

import argparse
import hashlib
import json
import lzma
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import sentencepiece as spm

UNKNOWN, BOS, EOS = 0, 1, 2
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
_, USER, ASSISTANT = range(EOS + 1, EOS + 1 + len(ROLES))
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}"
    "{% else %}<|{{ message['role'] }}|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Turns = list[tuple[str, str]]  # (question, answer)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that others may be reading: it becomes `path` when all of it is there."""
    part = path.with_name(path.name + ".part")
    yield part
    part.replace(path)


def escaped(text: str) -> str:
    """Literal role markers in a text must not become roles."""
    return text.replace("<|", "< |")


def held_out(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] < 26  # a tenth


def documents(data: Path, part: str) -> Iterator[str]:
    with open(data / f"corpus-{part}.jsonl") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def answers(data: Path) -> list[dict]:
    out = []
    for path in sorted(data.glob("distilled-*.jsonl.xz")):
        with lzma.open(path, "rt") as lines:
            out += [json.loads(line) for line in lines]
    return out


def conversations(data: Path, part: str, seed: int) -> list[Turns]:
    """Single questions, and chats of two or three answers on one topic. In training also what the
    model is to say of itself."""
    rng = random.Random(seed)
    chosen = [a for a in answers(data) if held_out(a["question"]) == (part == "heldout")]
    rng.shuffle(chosen)
    waiting: dict[str, list[tuple[str, str]]] = {}
    out: list[Turns] = []
    for a in chosen:
        turn = (a["question"], a["answer"])
        if a["topic"] and a["kind"] in ("explain", "short", "describe") and rng.random() < 0.4:
            turns = waiting.setdefault(a["topic"], [])
            turns.append(turn)
            if len(turns) == 3 or len(turns) == 2 and rng.random() < 0.5:
                out.append(waiting.pop(a["topic"]))
        else:
            out.append([turn])
    out += waiting.values()
    if part == "train":
        persona = json.loads((Path(__file__).parent / "persona.json").read_text())
        pairs = [(q, answer) for entry in persona for q in entry["questions"] for answer in entry["answers"]]
        # Often enough to be remembered: about one conversation in 150.
        out += [[rng.choice(pairs)] for _ in range(len(out) // 150 + len(pairs))]
    rng.shuffle(out)
    return out


def train_tokenizer(data: Path, vocab: int, sentences: int, seed: int) -> None:
    """BPE over as much of the conversations as of the documents, with byte fallback."""
    rng = random.Random(seed)
    chats = [f"{q}\n{a}" for turns in conversations(data, "train", seed) for q, a in turns]
    texts = list(documents(data, "train"))
    rng.shuffle(texts)

    def lines(parts: list[str], limit: int) -> Iterator[str]:
        size = 0
        for part in parts:
            for line in part.split("\n"):
                if line.strip():
                    size += len(line)
                    yield line[:4000]
            if size > limit:
                return

    with open(data / "tokenizer.txt", "w") as out:
        for part in (chats, texts):
            out.writelines(line + "\n" for line in lines(part, sentences))
    spm.SentencePieceTrainer.train(
        input=str(data / "tokenizer.txt"), model_prefix=str(data / "tokenizer"), model_type="bpe",
        vocab_size=vocab, byte_fallback=True, character_coverage=0.9995, add_dummy_prefix=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        unk_id=UNKNOWN, bos_id=BOS, eos_id=EOS, pad_id=-1, user_defined_symbols=ROLES + ["\n"],
        max_sentence_length=16000, num_threads=16, minloglevel=1,
    )  # fmt: skip


_tokenizer = None


def _encode(model: str, texts: list[str]) -> list[list[int]]:
    global _tokenizer
    if _tokenizer is None:
        _tokenizer = spm.SentencePieceProcessor(model_file=model)
    return _tokenizer.encode(texts)


def _encode_all(data: Path, texts: list[str], processes: int) -> Iterator[list[int]]:
    chunks = [texts[i : i + 1000] for i in range(0, len(texts), 1000)]
    with ProcessPoolExecutor(processes) as pool:
        for part in pool.map(partial(_encode, str(data / "tokenizer.model")), chunks):
            yield from part


def encode_documents(data: Path, processes: int) -> None:
    texts = [escaped(t) for t in documents(data, "train")]
    records = [[BOS, *ids, EOS] for ids in _encode_all(data, texts, processes)]
    stream = np.fromiter((i for r in records for i in r), np.uint16)
    with replacing(data / "documents.bin") as path:
        stream.tofile(path)
    with replacing(data / "heldout-text.jsonl") as path, open(path, "w") as out:
        out.writelines(json.dumps({"text": t}) + "\n" for t in documents(data, "heldout"))
    print(f"{len(stream)} tokens in {len(texts)} documents")


def encode_chats(data: Path, seed: int, processes: int) -> None:
    chats = conversations(data, "train", seed)
    flat = [escaped(text) for turns in chats for turn in turns for text in turn]
    ids = _encode_all(data, flat, processes)
    records = [np.array(_joined(len(turns), ids), np.uint16) for turns in chats]
    chat_tokens = sum(map(len, records))
    stream = np.fromfile(data / "documents.bin", np.uint16)
    texts = np.split(stream, np.flatnonzero(stream == EOS)[:-1] + 1)
    rng = random.Random(seed)
    sizes = {}
    for name, share in (("train", 1.0), ("anneal", 0.5)):
        rng.shuffle(texts)
        mixed = records + texts[: int(share * len(texts))]
        rng.shuffle(mixed)
        whole = np.concatenate(mixed)
        with replacing(data / f"{name}.bin") as path:
            whole.tofile(path)
        sizes[name] = len(whole)
    with replacing(data / "heldout-chats.jsonl") as path, open(path, "w") as out:
        out.writelines(json.dumps({"turns": t}) + "\n" for t in conversations(data, "heldout", seed))
    print(f"{sizes} tokens, {chat_tokens} of them in {len(chats)} conversations")


def _joined(turns: int, parts: Iterator[list[int]]) -> list[int]:
    """A conversation as CHAT_TEMPLATE renders it; parts gives questions and answers in turn."""
    ids = [BOS]
    for _ in range(turns):
        ids += [USER, *next(parts), ASSISTANT, *next(parts), EOS]
    return ids


def chat_ids(tokenizer, turns: Turns) -> list[int]:
    return _joined(len(turns), (tokenizer.encode(escaped(text)) for turn in turns for text in turn))


class Batches:
    """Batches [B, T + 1] of a stream, a function of seed and step alone: each epoch cuts the stream
    at another offset and visits the pieces in another order."""

    def __init__(self, stream, batch: int, length: int, seed: int):
        self.stream, self.batch, self.length, self.seed = stream, batch, length, seed
        self.per_epoch = (len(stream) - length - 1) // length // batch
        if self.per_epoch < 1:
            raise ValueError(f"{len(stream)} tokens do not fill a batch of {batch} x {length}")
        self.epoch = -1

    def at(self, step: int):
        import torch

        epoch, index = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            offset = int(torch.randint(self.length, (1,), generator=generator))
            order = torch.randperm(self.per_epoch * self.batch, generator=generator)
            starts = order * self.length + offset
            self.starts, self.epoch = starts.to(self.stream.device), epoch
        first = self.starts[index * self.batch : (index + 1) * self.batch]
        within = torch.arange(self.length + 1, device=self.stream.device)
        return self.stream[first[:, None] + within].long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["tokenizer", "documents", "chats"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--sentences", type=int, default=12_000_000, help="characters of each part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.what == "tokenizer":
        train_tokenizer(args.data, args.vocab, args.sentences, args.seed)
    elif args.what == "documents":
        encode_documents(args.data, args.processes)
    else:
        encode_chats(args.data, args.seed, args.processes)


if __name__ == "__main__":
    main()
