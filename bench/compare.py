#!/usr/bin/env python3
"""Compares Octet with llama.cpp on the same GGUF files, both in-process, and prints one table.

Runs of the two are interleaved; each figure is the median over --rounds, each ratio that of the medians. Needs the Python
packages llama-cpp-python (built with native flags: CMAKE_ARGS=-DGGML_NATIVE=ON) and gguf.

  bench/make_gguf.py --help                     # makes the synthetic Mixtral layouts
  bench/compare.py --octet build/octet --plot ratios.svg a.gguf b.gguf
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from plot import ratio_chart

HERE = pathlib.Path(__file__).resolve().parent


def labels(args):
    return [("prefill_tok_s", f"prefill {args.prompt}"),
            ("decode_tok_s", "decode, 1 sequence"),
            ("decode_many_tok_s", f"decode, {args.sequences} sequences")]


def run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def octet_bench(args, model, sequences):
    return run([args.octet, "bench", "--engine", "--json", "--model", model,
                "--threads", str(args.threads), "--prompt-tokens", str(args.prompt),
                "--max-tokens", str(args.tokens), "--concurrency", str(sequences),
                # Else slow prompts still arrive when the first sequences are at their end.
                "--itl-ms-max", "60000"])


def octet_figures(args, model):
    one = octet_bench(args, model, 1)
    many = octet_bench(args, model, args.sequences)
    return {"prefill_tok_s": one["prefill_tokens_per_s"],
            "decode_tok_s": one["decode_tokens_per_s"],
            "decode_many_tok_s": many["decode_tokens_per_s"]}


def peer_figures(args, model):
    return run([sys.executable, HERE / "peer_llama.py", model, "--threads", str(args.threads),
                "--prompt", str(args.prompt), "--tokens", str(args.tokens),
                "--sequences", str(args.sequences), "--repeat", "1"])


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


def cpu_levels():
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    return [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8") if f in flags]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--octet", default=str(HERE.parent / "build" / "octet"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=pathlib.Path, help="also draw the ratios as an SVG file")
    args = parser.parse_args()

    print(f"{cpu_name()} ({', '.join(cpu_levels())}), {args.threads} threads of "
          f"{os.cpu_count()} CPUs, median of {args.rounds} interleaved rounds\n")
    print("| model | figure | Octet tok/s | llama.cpp tok/s | ratio |")
    print("|---|---|---|---|---|")
    ratios = []
    for model in args.models:
        ours, peers = [], []
        for _ in range(args.rounds):
            ours.append(octet_figures(args, model))
            peers.append(peer_figures(args, model))
        for key, label in labels(args):
            mine = statistics.median(r[key] for r in ours)
            peer = statistics.median(r[key] for r in peers)
            print(f"| {pathlib.Path(model).stem} | {label} | {mine:.0f} | {peer:.0f} | "
                  f"{mine / peer:.2f} |", flush=True)
            ratios.append((f"{pathlib.Path(model).stem}, {label}", mine / peer))
    if args.plot:
        args.plot.write_text(ratio_chart(f"Octet's speed as a multiple of llama.cpp's on {cpu_name()}", ratios))


if __name__ == "__main__":
    main()
