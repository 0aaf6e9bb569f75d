#!/usr/bin/env python3
"""Throughput of `octet up` under two sets of flags, by turns: what a setting costs.

Each round starts both clusters one after the other (in turned order every other round) and runs octet bench on them. The
figure is the median of the rounds' ratios, second over first.

  bench/pairs.py --second=--verify-experts --model model.gguf --rounds 5
"""

import argparse
import json
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def measure(args, flags, sequences):
    address = "127.0.0.1:7620"
    model = ["--model", args.model] if args.model else []
    cluster = subprocess.Popen([args.octet, "up", "--listen", address, "--workers", str(args.workers), "--transport",
                                args.transport, *model, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            status = subprocess.run([args.octet, "status", "--server", address, "--json"], capture_output=True, text=True)
            if status.returncode == 0 and json.loads(status.stdout)["ready"]:
                break
            time.sleep(0.1)
        else:
            sys.exit("the cluster did not get ready")
        bench = [args.octet, "bench", "--server", address, "--concurrency", str(sequences), "--prompt-tokens", "16",
                 "--max-tokens", str(args.tokens), "--requests", str(2 * sequences), "--json"]
        subprocess.run(bench, capture_output=True, check=True)  # caches and estimates
        result = subprocess.run(bench, capture_output=True, text=True, check=True)
        return json.loads(result.stdout)["output_tokens_per_s"]
    finally:
        cluster.send_signal(signal.SIGTERM)
        cluster.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--octet", default=str(ROOT / "build" / "octet"))
    parser.add_argument("--first", action="append", default=[], help="a flag of octet up")
    parser.add_argument("--second", action="append", default=[], help="a flag of octet up")
    parser.add_argument("--model", help="a directory or GGUF file; default: the embedded one")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--transport", default="shm")
    parser.add_argument("--sequences", default="1,16")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    print(f"CPU: {cpu.group(1) if cpu else 'unknown'}; {args.workers} workers, {args.transport}; second: "
          f"{' '.join(args.second)}; first: {' '.join(args.first) or 'no flags'}")
    for sequences in map(int, args.sequences.split(",")):
        rates = {False: [], True: []}
        for turn in range(args.rounds):
            for second in ([False, True] if turn % 2 == 0 else [True, False]):
                rates[second].append(measure(args, args.second if second else args.first, sequences))
        ratios = [b / a for a, b in zip(rates[False], rates[True])]
        print(f"{sequences} sequences: first {statistics.median(rates[False]):.0f} tokens/s, second "
              f"{statistics.median(rates[True]):.0f}, ratio {statistics.median(ratios):.3f} "
              f"({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


if __name__ == "__main__":
    main()
