"""Asks the teacher many questions and writes what it answers.

    distill.py --teacher DIR --topics topics.json --out DIR --seconds 120

Writes DIR/distilled-N.jsonl.xz with lines {"kind", "topic", "question", "answer"}, at most 15 MiB a
file and --limit-mib in all, and prints what it made. The questions come in a random order that the
seed fixes, in batches of equal prompt length, so that the shares of the kinds do not depend on when
time is up.
"""

import argparse
import json
import lzma
import random
import re
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import torch
from prompts import questions
from teacher import END, Teacher

SYSTEM = "You are a helpful assistant. You answer in simple English with short sentences."
SENTENCE_END = re.compile(r"[.!?][\"')]?(?=\s|$)")
FILE_BYTES = 15 << 20


def prompt(question: str) -> str:
    return (
        f"<|im_start|>system\n{SYSTEM}{END}\n<|im_start|>user\n{question}{END}\n"
        "<|im_start|>assistant\n"
    )


def tidy(answer: str, ended: bool) -> str | None:
    """The answer cut after its last whole sentence, or None where too little of it is left."""
    answer = answer.strip()
    if not ended:
        ends = [match.end() for match in SENTENCE_END.finditer(answer)]
        if not ends or ends[-1] < 0.5 * len(answer):
            return None
        answer = answer[: ends[-1]]
    if "SmolLM" in answer or "Hugging" in answer:  # the student is another model
        return None
    if len(answer) < 12 or "\ufffd" in answer:
        return None
    words = answer.lower().split()
    # The teacher falls into loops at times.
    if len(words) > 60 and len(set(words)) < 0.3 * len(words):
        return None
    return answer


def batches(encoded, asked, size: int, seed: int) -> list[list[int]]:
    """Lists of indices of questions with equal prompt length and limit, ordered so that at any time
    about the same part of each limit's questions was asked."""
    rng = random.Random(seed)
    by_limit: dict[int, dict[int, list[int]]] = {}
    for index, (ids, q) in enumerate(zip(encoded, asked)):
        by_limit.setdefault(q.max_tokens, {}).setdefault(len(ids), []).append(index)
    ranked = []
    for lengths in by_limit.values():
        out = []
        for members in lengths.values():
            out += [members[i : i + size] for i in range(0, len(members), size)]
        # A small batch costs nearly as much as a large one.
        out = [batch for batch in out if len(batch) >= size // 4 or len(encoded) < size]
        rng.shuffle(out)
        ranked += [((i + rng.random()) / len(out), batch) for i, batch in enumerate(out)]
    return [batch for _, batch in sorted(ranked)]


def compress(lines: list[str]) -> bytes:
    return lzma.compress("".join(lines).encode(), preset=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--topics", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=400_000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--limit-mib", type=float, default=60)
    parser.add_argument("--first-file", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    started = time.monotonic()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(args.teacher / "tokenizer.json"))
    asked = questions(json.loads(args.topics.read_text()), args.questions, args.seed)
    encoded = [e.ids for e in tokenizer.encode_batch([prompt(q.text) for q in asked])]
    end = tokenizer.token_to_id(END)
    order = batches(encoded, asked, args.batch, args.seed)
    teacher = Teacher(args.teacher, args.device)
    if args.device == "cuda":
        print(f"attention of one layer: {teacher.choose_attention(args.batch)}", flush=True)
    print(f"{len(asked)} questions in {len(order)} batches, ready after "
          f"{time.monotonic() - started:.1f} s", flush=True)

    lines: list[str] = []
    tokens = 0

    def keep(batch: list[int], answers) -> None:
        texts = tokenizer.decode_batch([ids for ids, _ in answers])
        for index, text, (_, ended) in zip(batch, texts, answers):
            answer = tidy(text, ended)
            if answer is not None:
                q = asked[index]
                record = {"kind": q.kind, "topic": q.topic, "question": q.text, "answer": answer}
                lines.append(json.dumps(record, ensure_ascii=False) + "\n")

    generating = time.monotonic()
    keeping = None
    with ThreadPoolExecutor(1) as background:
        for number, batch in enumerate(order):
            spent = time.monotonic() - generating
            if spent > args.seconds:
                break
            answers = teacher.answer(
                [encoded[i] for i in batch], asked[batch[0]].max_tokens, end, seed=args.seed + number
            )
            tokens += sum(len(ids) for ids, _ in answers)
            if keeping is not None:
                keeping.result()  # raises what it raised
            keeping = background.submit(keep, batch, answers)
            print(f"batch {number}: {len(batch)} answers, {tokens} tokens, "
                  f"{tokens / (time.monotonic() - generating):.0f} tokens/s", flush=True)
        if keeping is not None:
            keeping.result()

    args.out.mkdir(parents=True, exist_ok=True)
    random.Random(args.seed).shuffle(lines)
    size = 4000
    with ProcessPoolExecutor() as pool:
        packed = list(pool.map(compress, [lines[i : i + size] for i in range(0, len(lines), size)]))
    # xz streams one after another are a valid file.
    files, written = [b""], 0
    for stream in packed:
        if written + len(stream) > args.limit_mib * (1 << 20):
            break
        if len(files[-1]) + len(stream) > FILE_BYTES:
            files.append(b"")
        files[-1] += stream
        written += len(stream)
    for number, data in enumerate(files):
        (args.out / f"distilled-{args.first_file + number}.jsonl.xz").write_bytes(data)
    print(f"{len(lines)} answers kept, {sum(map(len, lines))} characters, {tokens} tokens, "
          f"{written} bytes packed, {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
