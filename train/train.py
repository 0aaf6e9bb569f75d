"""Trains the model.

    train.py --config configs/tiny.json --data train/data --out train/runs/tiny --steps 3000
    train.py ... --resume          # goes on where the last saved state of --out ends

The learning rate rises over --warmup steps, stays, and falls to 0 over the last --decay of the run;
the last --quantise of it trains the experts as the server's w4x computes them. One seed on one device
gives the same bits, interrupted or not. --seconds sets the number of steps from the speed of the
first 40 and says it, so that --steps can repeat the run, unless it is so short that the 40 would have
been part of its end. With --seconds a resumed run keeps the number of steps that it has.
"""

import argparse
import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its bits with it

import numpy as np
import torch

from data import Batches, replacing
from model import Config, Model, to_dict
from optim import Optimiser
from quant import W4xTraining


@dataclass
class Settings:
    steps: int = 0  # or else from `seconds`
    seconds: float = 0
    batch: int = 64
    micro: int = 64  # sequences at once; the batch is a multiple
    length: int = 2048
    lr: float = 3e-3
    adam: float = 1.0  # AdamW's rate as a multiple of Muon's
    warmup: int = 100
    decay: float = 0.45
    quantise: float = 0.1
    group: int = 64
    balance: float = 0.01
    z: float = 1e-3
    seed: int = 1
    data_seed: int = 1

    def anneal_from(self) -> int:
        return round(self.steps * (1 - self.decay))

    def rate(self, step: int) -> float:
        begin = self.anneal_from()
        falling = min(1.0, (self.steps - step) / max(1.0, self.steps - begin))
        return self.lr * min(1.0, (step + 1) / self.warmup) * max(0.0, falling)

    def quantise_from(self) -> int:
        return round(self.steps * (1 - self.quantise)) if self.quantise > 0 else self.steps + 1


def deterministic(strict: bool = True) -> None:
    """strict: an operation that can't repeat its bits is an error (cuDNN's attention repeats them
    only then)."""
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    # Otherwise every torch.empty would be filled, which nothing here needs.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def strictly(work, log):
    """(True, work()) with strict operations; (False, work()) without, where one is missing here."""
    try:
        deterministic(True)
        return True, work()
    except RuntimeError as error:
        log(f"strict operations failed: {str(error)[:300]}")
        torch._dynamo.reset()
        deterministic(False)
        return False, work()


class Run:
    """A model in training. `step` steps are done. Streams of tokens: `stream`, and `anneal` while the
    learning rate falls."""

    def __init__(
        self, config: Config, settings: Settings, stream: torch.Tensor, grouped: bool,
        anneal: torch.Tensor | None = None,
    ):  # fmt: skip
        self.config, self.settings = config, settings
        device = stream.device.type
        self.model = Model(config, settings.seed).use_device(device, grouped)
        self.optimiser = Optimiser(self.model, settings.adam)
        self.quantiser = W4xTraining(settings.group)
        if device == "cuda":
            self.quantiser.use_compiler()
            self.optimiser.muon.orthogonalise = torch.compile(
                self.optimiser.muon.orthogonalise, dynamic=False
            )
        self.batches, self.anneal = (
            None if s is None else Batches(s, settings.batch, settings.length, settings.data_seed)
            for s in (stream, anneal)
        )
        self.step = 0

    def noise(self, ids: torch.Tensor, part: int) -> torch.Tensor | None:
        """Logits of a gate that chooses at random; a function of the seed, step and part alone."""
        if self.config.gate != "random":
            return None
        s = self.settings
        generator = torch.Generator(ids.device).manual_seed((s.seed * 100_003 + self.step) * 64 + part)
        tokens = ids.shape[0] * (ids.shape[1] - 1)
        shape = (self.config.layers, tokens, self.config.experts)
        return torch.randn(shape, device=ids.device, generator=generator)

    def do_step(self) -> dict[str, torch.Tensor]:
        s = self.settings
        if self.step >= s.quantise_from() and s.steps:
            self.quantiser.refresh(self.model.layers, self.step)
            self.model.quantiser = self.quantiser
        late = self.anneal is not None and 0 < s.steps and self.step >= s.anneal_from()
        ids = self.anneal.at(self.step - s.anneal_from()) if late else self.batches.at(self.step)
        parts = ids.split(s.micro)
        figures = []
        for number, ids in enumerate(parts):
            losses = self.model.losses(ids, self.noise(ids, number))
            total = losses.text + s.balance * losses.balance + s.z * losses.z
            (total / len(parts)).backward()
            figures.append(losses)
        self.optimiser.step(s.rate(self.step) if s.steps else s.lr * min(1, (self.step + 1) / s.warmup))
        self.optimiser.zero_grad()
        self.step += 1
        load = torch.stack([f.load for f in figures]).sum(0).float()
        return {
            "text": torch.stack([f.text.detach() for f in figures]).mean(),
            "balance": torch.stack([f.balance.detach() for f in figures]).mean(),
            "z": torch.stack([f.z.detach() for f in figures]).mean(),
            "worst_load": (load.amax(1) / load.mean(1)).max(),
        }

    def state(self) -> dict:
        scales = [self.quantiser.scales.get(id(layer)) for layer in self.model.layers]
        return {
            "config": to_dict(self.config),
            "settings": dataclasses.asdict(self.settings),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state(),
            "scales": scales if scales[0] is not None else None,
        }

    def restore(self, state: dict) -> None:
        self.step = state["step"]
        self.settings.steps = self.settings.steps or state["settings"]["steps"]
        self.model.load_state_dict(state["model"])
        self.optimiser.restore(state["optimiser"])
        if state["scales"] is not None:
            for layer, scales in zip(self.model.layers, state["scales"]):
                self.quantiser.scales[id(layer)] = scales


def copied(state):
    """A state that later steps do not change."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*map(copied, state))
    if isinstance(state, (list, tuple)):
        return type(state)(map(copied, state))
    return state


def save(state: dict, path: Path) -> None:
    with replacing(path) as part:
        torch.save(state, part)


def read_stream(path: Path, device: str) -> torch.Tensor:
    return torch.from_numpy(np.fromfile(path, np.uint16).astype(np.int32)).to(device)


def train(run: Run, log, every: int = 50, on_step=None) -> None:
    """Runs to the end of the schedule. `log` gets a line; `on_step(run)` is called after each step."""
    s = run.settings
    device = run.batches.stream.device
    first, timed_from = run.step, None  # a resumed run may not know its number of steps yet
    last = (time.monotonic(), run.step)
    started = time.monotonic()
    while s.steps == 0 or run.step < s.steps:
        figures = run.do_step()
        if s.steps == 0 and run.step - first in (10, 40):
            if device.type == "cuda":
                torch.cuda.synchronize()
            now = time.monotonic()
            if timed_from is None:
                timed_from = now
            else:  # what is left of the time, at this speed
                left = (s.seconds - (now - started)) / ((now - timed_from) / 30)
                s.steps = run.step + max(1, int(left))
                repeats = run.step <= min(s.anneal_from(), s.quantise_from())
                log(f"{s.steps} steps fit in {s.seconds:.0f} s"
                    + ("" if repeats else "; too few for --steps to repeat this run"))
        if run.step % every == 0 or run.step == s.steps:
            values = {name: float(value) for name, value in figures.items()}
            now = time.monotonic()
            rate = (run.step - last[1]) * s.batch * s.length / (now - last[0])
            last = (now, run.step)
            log(f"step {run.step} loss {values['text']:.4f} balance {values['balance']:.4f} "
                f"z {values['z']:.3f} worst load {values['worst_load']:.3f} {rate:.0f} tokens/s")
        if on_step is not None:
            on_step(run)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.bin")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--save-every", type=int, default=500, help="steps")
    parser.add_argument("--dense", action="store_true", help="no grouped products")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for field in dataclasses.fields(Settings):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default)
    args = parser.parse_args()
    settings = Settings(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Settings)})
    state = args.out / "last.pt"
    resumed = args.resume and state.exists()
    given = (settings.steps > 0) + (settings.seconds > 0)
    if given == 2 or given == 0 and not resumed:
        parser.error("give either --steps or --seconds, greater than 0"
                     + (f"; there is no {state} to resume" if args.resume and not resumed else ""))
    if settings.batch % settings.micro:
        settings.micro = settings.batch
    deterministic()
    args.out.mkdir(parents=True, exist_ok=True)
    anneal = args.data / "anneal.bin"
    run = Run(Config.load(args.config), settings, read_stream(args.data / "train.bin", args.device),
              not args.dense, read_stream(anneal, args.device) if anneal.exists() else None)
    if resumed:
        run.restore(torch.load(state, map_location=args.device, weights_only=False))
        if settings.steps == 0 and settings.seconds == 0:
            parser.error(f"{state} has no number of steps yet: give either --steps or --seconds")
    whole, active = run.config.parameters()
    with open(args.out / "log.txt", "a") as file:
        def log(line: str) -> None:
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()

        log(f"{whole} parameters, {active} for a token; {json.dumps(dataclasses.asdict(settings))}")

        def on_step(run: Run) -> None:
            if run.step % args.save_every == 0:
                save(run.state(), state)

        train(run, log, on_step=on_step)
    save(run.state(), state)


if __name__ == "__main__":
    main()
