"""Bits per byte of another model, run by llama.cpp, on the held-out text and conversations.

    peer_eval.py MODEL.gguf --data train/data [--bytes 100000]

For scale: the other model is larger and saw far more text. The windows, and the bytes that the bits
are divided by, are those of serve_eval.py. What differs: the other model reads them as plain text,
starting from the token that the GGUF names as BOS. In a conversation a line break stands between
questions and answers instead of the model's chat template, and nothing marks the end. The bits of
these line breaks count, as in our figure those of role markers and </s> do; neither count as bytes.
A window longer than the other model's is scored in parts.

Needs llama-cpp-python, numpy and sentencepiece, but not torch.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import sentencepiece as spm
from llama_cpp import Llama

from heldout import plain_text, windows

CONTEXT = 2048


def nats(model: Llama, ids: list[int]) -> float:
    """-log p of ids[1:] given what comes before."""
    model.reset()
    model.eval(ids)
    logits = np.asarray(model.scores[: len(ids) - 1], np.float64)
    top = logits.max(1, keepdims=True)
    log_z = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return float((log_z - logits[np.arange(len(ids) - 1), ids[1:]]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument(
        "--window", type=int, default=2047,
        help="longest window in our ids; serve_eval.py has at most our context less one",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tokenizer = spm.SentencePieceProcessor(model_file=str(args.data / "tokenizer.model"))
    model = Llama(str(args.model), n_ctx=CONTEXT, n_batch=512, logits_all=True, verbose=False)
    start = model.token_bos()
    for what in ("text", "chats"):
        total, size = 0.0, 0
        for w in windows(tokenizer, args.data, what, args.bytes, args.window, args.seed):
            ids = model.tokenize(plain_text(tokenizer, w.ids).encode(), add_bos=False)
            size += w.bytes
            for begin in range(0, len(ids), CONTEXT - 1):
                total += nats(model, [start, *ids[begin : begin + CONTEXT - 1]])
        print(f"{what}: {total / math.log(2) / size:.4f} bits per byte of {size} bytes", flush=True)


if __name__ == "__main__":
    main()
