"""What serving keeps of a model: bits per byte of held-out text in torch and in each served format.

    serve_eval.py EXPORTED --data train/data --octet build/octet --work /tmp/packs --out eval.json

EXPORTED is what export.py wrote. Each window is one document (its beginning) or one conversation by
itself, at most --window ids, and is one run of `octet eval --ids`: served and torch see the same ids
from position 0. Every id after the first <s> is scored, also role markers and </s>; the bits are
divided by the bytes of the text alone, so conversations look a little dearer than their words are.

Where two experts are as good as equal to the gate, sums of another order choose another expert, and
this token and what follows it in the window may differ by more than rounding. "before a tie" are the
tokens before the first place of their window where the last chosen expert leads the next one by less
than 0.00001 of its probability in torch.
"""

import argparse
import dataclasses
import json
import math
import shutil
import subprocess
import tempfile
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn.functional as F

from export import load_export
from heldout import Window, windows
from model import Model

# name: flags of `octet pack`, flags of `octet eval`
FORMATS = {
    "f32": (["--experts", "f32", "--attention", "f32"], ["--kv-dtype", "f32"]),
    "w4x": (["--experts", "w4x", "--group", "64", "--attention", "int8"], []),
    "int4": (["--experts", "int4", "--group", "32", "--attention", "int8"], []),
}


def bits_per_byte(logprobs: list[torch.Tensor], parts: list[Window]) -> float:
    nats = -sum(float(x.double().sum()) for x in logprobs)
    return nats / math.log(2) / sum(w.bytes for w in parts)


# ---- Torch ----


TIE = 1e-5


class GateCount:
    """Tokens by layer and expert, the entropy of the gate's probabilities, and for each window how
    many tokens are before a tie."""

    def __init__(self, model: Model):
        self.tokens = torch.zeros(model.config.layers, model.config.experts, dtype=torch.float64)
        self.entropy = torch.zeros(model.config.layers, dtype=torch.float64)
        self.rows = 0
        self.before_tie: list[int] = []

    def add(self, routings) -> None:
        for i, r in enumerate(routings):
            self.tokens[i] += r.load()
            p = r.probs.double()
            self.entropy[i] += -(p * p.clamp_min(1e-30).log2()).sum()
        rows, k = routings[0].experts.shape
        self.rows += rows
        if k == self.tokens.shape[1]:  # nothing to choose
            self.before_tie.append(rows)
            return
        best = torch.stack([torch.topk(r.probs, k + 1).values for r in routings])  # [L, N, k + 1]
        tied = ((best[..., k - 1] - best[..., k]) < TIE * best[..., k - 1]).any(0)
        self.before_tie.append(int(tied.int().argmax()) if bool(tied.any()) else rows)

    def report(self) -> dict:
        share = self.tokens / self.tokens.sum(1, keepdim=True)
        return {
            "max_over_mean": (self.tokens.amax(1) / self.tokens.mean(1)).tolist(),
            "entropy_bits": (self.entropy / self.rows).tolist(),
            "entropy_bits_max": math.log2(self.tokens.shape[1]),
            "share": share.tolist(),
        }


@torch.inference_mode()
def torch_logprobs(model: Model, ids: list[int], noise=None, count: GateCount | None = None):
    device = model.embedding.device
    x = torch.tensor([ids[:-1]], device=device)
    hidden, routings = model.hidden(x, noise)
    logits = F.linear(hidden[0].float(), model.embedding.float())
    if count is not None:
        count.add(routings)
    targets = torch.tensor(ids[1:], device=device)
    return torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0].cpu()


def random_gate(model: Model, parts: list[Window], seed: int) -> list[torch.Tensor]:
    """With experts chosen at random and weighed at random: what the gate's choice is worth."""
    c = model.config
    generator = torch.Generator().manual_seed(seed)
    model.config = dataclasses.replace(c, gate="random")
    try:
        return [
            torch_logprobs(
                model, w.ids, torch.randn(c.layers, len(w.ids) - 1, c.experts, generator=generator)
            )
            for w in parts
        ]
    finally:
        model.config = c


# ---- Served ----


def run(command: list) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def pack(octet: Path, exported: Path, work: Path, name: str) -> Path:
    """The package of this format in `work`, made again where the export is newer."""
    out = work / f"{exported.resolve().name}-{name}"
    manifest = out / "manifest.json"
    if manifest.exists():
        if all(p.stat().st_mtime_ns < manifest.stat().st_mtime_ns for p in exported.iterdir()):
            return out
        shutil.rmtree(out)
    run([octet, "pack", exported, out, *FORMATS[name][0]])
    return out


def served_logprobs(octet: Path, package: Path, ids: list[int], flags: list[str]) -> torch.Tensor:
    with tempfile.NamedTemporaryFile("w", suffix=".ids") as file:
        file.write(" ".join(map(str, ids)))
        file.flush()
        command = [octet, "eval", "--model", package, "--ids", file.name, "--json", *flags]
        reply = json.loads(run(command))
    if reply["tokens"] != ids or reply["window"] < len(ids):
        raise SystemExit(f"octet scored other ids than asked, or in windows of {reply['window']}")
    return torch.tensor(reply["logprobs"])


def differences(a: list[torch.Tensor], b: list[torch.Tensor], before_tie: list[int]) -> dict:
    d = (torch.cat(a) - torch.cat(b)).abs()
    clear = torch.cat([(x - y).abs()[:n] for x, y, n in zip(a, b, before_tie)])
    return {
        "max_before_tie": float(clear.max()) if len(clear) else None,
        "tokens_before_tie": len(clear),
        "max": float(d.max()),
        "quantile_999": float(d.kthvalue(max(1, int(0.999 * len(d)))).values),
        "above_1e-3": int((d > 1e-3).sum()),
        "tokens": len(d),
    }


# ---- Report ----


def evaluate(args, part: str, model: Model, tokenizer, packages: dict[str, Path]) -> dict:
    longest = min(args.window, model.config.context - 1)  # octet keeps one place for its answer
    parts = windows(tokenizer, args.data, part, args.bytes, longest, args.seed)
    count = GateCount(model)
    torch_scores = [torch_logprobs(model, w.ids, None, count) for w in parts]
    random_scores = random_gate(model, parts, args.seed)
    out = {
        "windows": len(parts),
        "bytes": sum(w.bytes for w in parts),
        "tokens": sum(len(w.ids) - 1 for w in parts),
        "bits_per_byte": {"torch f32": bits_per_byte(torch_scores, parts),
                          "torch f32, random gate": bits_per_byte(random_scores, parts)},
        "nats_per_token": float(-torch.cat(torch_scores).mean()),
        "logprob_difference": {},
        "gate": count.report(),
    }  # fmt: skip
    for name, package in packages.items():
        scores = [served_logprobs(args.octet, package, w.ids, FORMATS[name][1]) for w in parts]
        out["bits_per_byte"][f"served {name}"] = bits_per_byte(scores, parts)
        out["logprob_difference"][name] = differences(scores, torch_scores, count.before_tie)
        print(f"{part}: served {name} done", flush=True)
    return out


def markdown(report: dict) -> str:
    lines = []
    for part in report["parts"]:
        r = report[part]
        lines += [
            f"## Held-out {part}: {r['windows']} windows, {r['bytes']} bytes, {r['tokens']} tokens",
            "", "| weights | bits per byte | against torch f32 |", "|---|---|---|",
        ]  # fmt: skip
        base = r["bits_per_byte"]["torch f32"]
        for name, value in r["bits_per_byte"].items():
            lines.append(f"| {name} | {value:.4f} | {100 * (value / base - 1):+.2f} % |")
        lines += [
            "", "| served | greatest logprob difference, before a tie | of all tokens | 99.9 % below "
            "| above 0.001 |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for name, d in r["logprob_difference"].items():
            clear = "-"  # quantised weights move every choice
            if name == "f32" and d["max_before_tie"] is not None:
                clear = f"{d['max_before_tie']:.2g} ({d['tokens_before_tie']} tokens)"
            lines.append(
                f"| {name} | {clear} | {d['max']:.2g} | "
                f"{d['quantile_999']:.2g} | {d['above_1e-3']} of {d['tokens']} |"
            )
        gate = r["gate"]
        lines += [
            "", f"| layer | max / mean load | gate entropy (of {gate['entropy_bits_max']:.2g} bits) "
            "| share of each expert, % |", "|---|---|---|---|",
        ]  # fmt: skip
        for i, (load, entropy, share) in enumerate(
            zip(gate["max_over_mean"], gate["entropy_bits"], gate["share"])
        ):
            shares = " ".join(f"{100 * s:.1f}" for s in share)
            lines.append(f"| {i} | {load:.3f} | {entropy:.2f} | {shares} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exported", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with heldout-*.jsonl")
    parser.add_argument("--octet", type=Path, default=Path("build/octet"))
    parser.add_argument("--work", type=Path, help="where packages stay; default: a temporary folder")
    parser.add_argument("--formats", default="f32,w4x,int4", help="some of " + ", ".join(FORMATS))
    parser.add_argument("--parts", default="text,chats")
    parser.add_argument("--bytes", type=int, default=100_000, help="of text, and of conversations")
    parser.add_argument("--window", type=int, default=2048, help="longest window in ids")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    formats = [name for name in args.formats.split(",") if name]
    if set(formats) - set(FORMATS):
        allowed = ", ".join(FORMATS)
        parser.error(f"--formats: {args.formats} is not allowed; allowed are some of {allowed}")
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        model = load_export(args.exported)
        tokenizer = spm.SentencePieceProcessor(model_file=str(args.exported / "tokenizer.model"))
        packages = {name: pack(args.octet, args.exported, work, name) for name in formats}
        report = {"model": args.exported.resolve().name, "parts": args.parts.split(",")}
        for part in report["parts"]:
            report[part] = evaluate(args, part, model, tokenizer, packages)
    print(markdown(report))
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
