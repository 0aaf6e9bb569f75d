"""One small run of a comparison: trains configs/small.json with what the flags change and writes the
held-out figures.

    ablate.py --data train/data --out RESULT.json --gate linear --seed 2 --steps 600
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch

from data import replacing
from evaluate import figures, held_out_sets
from model import Config
from train import Run, Settings, read_stream, strictly, train


def compare(args: argparse.Namespace, sets: dict[str, tuple[list[int], int]]) -> None:
    settings = Settings(
        steps=args.steps, batch=args.batch, micro=args.batch, length=args.length, seed=args.seed,
        balance=args.balance, quantise=0, warmup=50,
    )  # fmt: skip
    # The linear gate has a third of the attention gate's parameters: 2 · E · H of each layer, here
    # below 0.4 % of the model, are not made up for.
    config = Config.load(args.config, gate=args.gate)
    started = time.monotonic()
    run = Run(config, settings, read_stream(args.data / "train.bin", args.device), True)
    train(run, lambda line: print(f"{args.out.stem}: {line}", flush=True), every=100)
    model = run.model
    model.quantiser = None
    result = {
        "gate": args.gate, "seed": args.seed, "balance": args.balance,
        "steps": args.steps, "tokens": args.steps * args.batch * args.length,
        "parameters": config.parameters(), "seconds": time.monotonic() - started,
    }  # fmt: skip

    def measure(name: str) -> None:
        for what, (ids, size) in sets.items():
            result[f"{name}/{what}"] = figures(model, ids, size)

    measure("float")
    if args.gate != "random":  # the same weights, experts chosen at random
        model.config = dataclasses.replace(config, gate="random")
        measure("random choice")
        model.config = config
    with replacing(args.out) as path:
        path.write_text(json.dumps(result))
    print(f"{args.out.stem}: text {result['float/text']['bits_per_byte']:.4f}, chats "
          f"{result['float/chats']['bits_per_byte']:.4f} bits per byte", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs/small.json")
    parser.add_argument("--gate", choices=["attention", "linear", "random"], default="attention")
    parser.add_argument("--balance", type=float, default=Settings.balance)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--held-out", type=int, default=250_000, help="bytes of text and of chats")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    sets = held_out_sets(args.data, args.held_out)  # before training: it may not be there
    strictly(lambda: compare(args, sets), lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
