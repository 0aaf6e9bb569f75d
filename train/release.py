"""Everything that one GPU does for the embedded model, within a time.

    release.py --data train/data --out DIR --seconds 560 [--teacher DIR --distill 115]

1. With --teacher: more conversations (distill.py), then train.bin and anneal.bin (data.py chats).
   Beside it the small comparisons of ablate.py, with the conversations that are there; after it
   where there are none yet.
2. Trains configs/tiny.json, its last tenth quantisation-aware: DIR/model/ (bf16, see `pack`).
3. Trains that tenth again without, from the same state, for the comparison with plain rounding.

DIR/results.json has the held-out figures. What a later stage could not do does not harm the earlier.
"""

import argparse
import dataclasses
import hashlib
import json
import lzma
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from evaluate import LENGTH, figures, held_out_ids, held_out_sets
from model import Config
from quant import round_trip
from train import Run, Settings, copied, read_stream, strictly, train

HERE = Path(__file__).parent
FILE_BYTES = 15 << 20
ABLATIONS = {
    **{f"{gate}-{seed}": ["--gate", gate, "--seed", str(seed)]
       for gate in ("attention", "linear") for seed in (1, 2, 3)},
    "random-1": ["--gate", "random"],
    "unbalanced-1": ["--balance", "0"],
}  # fmt: skip


def pack(run: Run, out: Path) -> None:
    """The weights in bf16: all low bytes, then all high bytes, of the tensors in order, as xz in
    files of 15 MiB (the sign and exponent of a weight compress, its mantissa does not)."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.to(torch.bfloat16).cpu() for name, value in run.model.state_dict().items()}
    meta = {
        "config": dataclasses.asdict(run.config), "settings": dataclasses.asdict(run.settings),
        "step": run.step, "tensors": [[name, list(value.shape)] for name, value in state.items()],
    }  # fmt: skip
    (out / "model.json").write_text(json.dumps(meta))
    halves = torch.cat([value.flatten().view(torch.uint8).view(-1, 2) for value in state.values()])
    planes = b"".join(halves[:, i].contiguous().numpy().tobytes() for i in (0, 1))
    chunks = [planes[i : i + (2 << 20)] for i in range(0, len(planes), 2 << 20)]
    with ThreadPoolExecutor(16) as pool:  # lzma lets go of the interpreter's lock
        packed = list(pool.map(lambda chunk: lzma.compress(chunk, preset=1), chunks))
    data = b"".join(packed)
    for number, begin in enumerate(range(0, len(data), FILE_BYTES)):
        (out / f"model-{number}.xz").write_bytes(data[begin : begin + FILE_BYTES])


def unpack(folder: Path) -> dict:
    """What `pack` wrote: {"config", "settings", "step", "model": bf16 tensors}."""
    meta = json.loads((folder / "model.json").read_text())
    parts = sorted(folder.glob("model-*.xz"), key=lambda p: int(p.stem.split("-")[1]))
    planes = lzma.decompress(b"".join(p.read_bytes() for p in parts))
    halves = torch.frombuffer(bytearray(planes), dtype=torch.uint8).view(2, -1)
    values = halves.t().contiguous().view(torch.bfloat16).flatten()
    model, begin = {}, 0
    for name, shape in meta.pop("tensors"):
        size = torch.Size(shape).numel()
        model[name] = values[begin : begin + size].view(shape)
        begin += size
    return {**meta, "model": model}


def digest(model) -> str:
    h = hashlib.sha256()
    for p in model.parameters():
        h.update(p.detach().cpu().numpy().tobytes())
    return h.hexdigest()[:16]


class Release:
    def __init__(self, args):
        self.args = args
        self.started = time.monotonic()
        self.config = Config.load(args.config)
        self.settings = Settings(
            batch=args.batch, micro=args.batch, length=args.length, lr=args.lr, steps=args.steps
        )
        self.results: dict = {"device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu"}

    def left(self) -> float:
        return self.args.seconds - (time.monotonic() - self.started)

    def log(self, line: str) -> None:
        text = f"[{time.monotonic() - self.started:.0f} s] {line}"
        print(text, flush=True)
        with open(self.args.out / "log.txt", "a") as file:
            file.write(text + "\n")

    def save_results(self) -> None:
        (self.args.out / "results.json").write_text(json.dumps(self.results))

    def encode(self) -> None:
        command = [sys.executable, str(HERE / "data.py"), "chats", "--data", str(self.args.data),
                   "--processes", str(os.cpu_count())]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        self.log("chats: " + (done.stdout + done.stderr).strip()[-700:])
        done.check_returncode()
        self.stream, self.anneal = (
            read_stream(self.args.data / f"{name}.bin", self.args.device) for name in ("train", "anneal")
        )

    def has_chats(self) -> bool:
        return len(held_out_ids(self.args.data, "chats", self.args.held_out)[0]) > LENGTH

    def start(self, command: list[str]) -> subprocess.Popen:
        return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def start_distilling(self) -> subprocess.Popen:
        a = self.args
        return self.start([
            sys.executable, str(HERE / "distill.py"), "--teacher", str(a.teacher), "--topics",
            str(a.data / "topics.json"), "--out", str(a.data), "--first-file", "1", "--seed", "2",
            "--seconds", str(a.distill), "--limit-mib", str(a.limit_mib),
        ])  # fmt: skip

    def finish_distilling(self, process: subprocess.Popen) -> None:
        """Whatever happened to it, training goes on with the conversations that are there."""
        try:
            output, _ = process.communicate(timeout=self.args.distill + 60)
            self.log("distill: " + output.strip()[-700:])
        except subprocess.TimeoutExpired:
            process.kill()
            self.log("distill: took too long")
        for path in self.args.data.glob("distilled-[1-9]*.xz"):
            (self.args.out / path.name).write_bytes(path.read_bytes())

    def measure(self, run: Run, name: str) -> None:
        """Held-out figures of the weights as they are (rounded to bf16), and in the server's formats."""
        model = run.model
        model.quantiser = None
        kept = copied(model.state_dict())
        rounded = {key: value.to(torch.bfloat16).float() for key, value in kept.items()}
        for format, group in ((None, 0), ("w4x", 64), ("int4", 32)):
            model.load_state_dict(rounded)
            if format is not None:
                round_trip(model, format, group)
            for what, (ids, size) in self.held_out.items():
                label = f"{name}/{format or 'float'}/{what}"
                self.results[label] = figures(model, ids, size)
                self.log(f"{label}: {self.results[label]['bits_per_byte']:.4f} bits per byte")
        model.load_state_dict(kept)
        self.save_results()

    def new_run(self, settings: Settings) -> Run:
        return Run(self.config, settings, self.stream, not self.args.dense, self.anneal)

    def warm_up(self) -> None:
        """Compiles what training needs. Chooses strict operations, or does without where one is
        missing, and notes whether two short runs end in the same bits."""
        short = dataclasses.replace(self.settings, steps=1000, seconds=0, quantise=0.998)

        def short_run() -> str:
            run = self.new_run(short)
            for _ in range(4):  # two of them quantised
                run.do_step()
            return digest(run.model)

        strict, digests = strictly(lambda: [short_run(), short_run()], self.log)
        self.results["strict"], self.results["repeatable"] = strict, digests[0] == digests[1]
        self.log(f"strict {strict}, digests {digests}")

    def train(self) -> None:
        a = self.args
        settings = self.settings
        if not settings.steps:  # what is left for training, the repeated tenth and measuring
            settings.seconds = (self.left() - a.reserve) / (1 + settings.quantise)
            self.log(f"training for {settings.seconds:.0f} s")
        run = self.new_run(settings)
        fork = None

        def on_step(run: Run) -> None:
            nonlocal fork
            if run.step == run.settings.quantise_from():
                fork = copied(run.state())

        whole, active = self.config.parameters()
        self.log(f"{whole} parameters, {active} for a token, {len(self.stream)} tokens at hand, "
                 f"{len(self.anneal)} at the end")
        train(run, self.log, on_step=on_step)
        tokens = settings.steps * settings.batch * settings.length
        self.results |= {"parameters": [whole, active], "steps": settings.steps, "tokens": tokens,
                         "settings": dataclasses.asdict(settings)}  # fmt: skip
        pack(run, a.out / "model")
        self.log("packed")
        self.measure(run, "trained")
        run.restore(fork)
        run.settings.quantise = 0.0
        run.quantiser.scales.clear()
        train(run, self.log)
        self.measure(run, "unquantised")

    def start_ablations(self) -> dict[str, subprocess.Popen]:
        a = self.args
        folder = a.out / "ablations"
        folder.mkdir(exist_ok=True)
        common = [sys.executable, str(HERE / "ablate.py"), "--data", str(a.data), "--device", a.device,
                  "--steps", str(a.ablation_steps)]  # fmt: skip
        return {
            name: self.start([*common, *flags, "--out", str(folder / f"{name}.json")])
            for name, flags in ABLATIONS.items()
        }

    def finish_ablations(self, running: dict[str, subprocess.Popen], patience: float) -> None:
        until = time.monotonic() + patience
        for name, process in list(running.items()):
            try:
                output, _ = process.communicate(timeout=max(0.1, until - time.monotonic()))
                self.log(f"{name}: {output.strip()[-160:]}")
                running.pop(name)
            except subprocess.TimeoutExpired:
                self.log(f"{name}: still at work")
        folder = self.args.out / "ablations"
        self.results["ablations"] = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
        self.save_results()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=HERE / "configs/tiny.json")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="folder of teacher.py")
    parser.add_argument("--distill", type=float, default=150, help="seconds of the teacher's work")
    parser.add_argument("--limit-mib", type=float, default=20, help="of packed conversations")
    parser.add_argument("--seconds", type=float, default=560)
    parser.add_argument("--reserve", type=float, default=25, help="seconds for what follows training")
    parser.add_argument("--steps", type=int, default=0, help="instead of as many as fit")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=Settings.lr)
    parser.add_argument("--ablation-steps", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=600_000, help="bytes of text and of chats")
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    release = Release(args)
    release.encode()
    if args.teacher is None:  # no more will come: too little is said before anything is trained
        held_out_sets(args.data, args.held_out)
    ablations = release.start_ablations() if release.has_chats() else {}
    distilling = release.start_distilling() if args.teacher is not None else None
    release.warm_up()
    if distilling is not None:
        release.finish_distilling(distilling)
        release.encode()
    release.held_out = held_out_sets(args.data, args.held_out)
    if not ablations:
        ablations = release.start_ablations()
    release.finish_ablations(ablations, patience=15)
    release.train()
    release.finish_ablations(ablations, patience=max(1.0, release.left()))
    for process in ablations.values():
        process.kill()
    release.log("done")


if __name__ == "__main__":
    main()
