#!/usr/bin/env python3
"""Throughput of a cluster on this machine while the hot experts move, with and without extra replicas.

Finds, by octet eval, token ids whose rows the gates send to one expert; starts octet up; then octet bench --skew draws
prompts from the whole vocabulary, from the ids of one expert, and from those of another. With --quota each worker gets
that share of a core (cgroup v1 cpu controller, as root), so that they do not lend each other the cores they share.
Writes a CSV per run and one chart.

  bench/skew.py --quota 0.2 --out docs/skew.svg
"""

import argparse
import csv
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import plot

ROOT = pathlib.Path(__file__).resolve().parent.parent
CPU = pathlib.Path("/sys/fs/cgroup/cpu")
PERIOD_US = 10_000
QUOTA_US_MIN = 1_000


def run(args, *command):
    result = subprocess.run([args.octet, *map(str, command)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"octet {' '.join(map(str, command))}: {result.stderr}")
    return result.stdout


def rows_by_expert(args, token, directory):
    """Rows of each expert, over all layers, when a sequence is this token again and again."""
    ids = directory / "ids"
    ids.write_text(" ".join([str(token)] * 24))
    layers = json.loads(run(args, "eval", "--ids", ids, "--json", *args.model, "--threads", 1))["gate"]["layers"]
    return [sum(rows) for rows in zip(*(layer["tokens_per_expert"] for layer in layers))]


def pools(args, directory):
    """Two experts and, for each, the token ids that ask most for it."""
    draw = random.Random(1)
    tokens = draw.sample(range(args.vocab), args.probes)
    shares = {}
    for token in tokens:
        rows = rows_by_expert(args, token, directory)
        shares[token] = [r / sum(rows) for r in rows]
    experts = len(next(iter(shares.values())))
    best = {}
    for e in range(experts):
        top = sorted(tokens, key=lambda t: -shares[t][e])[: args.pool]
        best[e] = (sum(shares[t][e] for t in top) / len(top), top)
    # On different workers of the base placement.
    first = max(best, key=lambda e: best[e][0])
    second = max((e for e in best if e % args.workers != first % args.workers), key=lambda e: best[e][0])
    for e in (first, second):
        print(f"expert {e}: {100 * best[e][0]:.0f} % of the rows, tokens {best[e][1]}", flush=True)
    return tokens, best[first][1], best[second][1]


class Quota:
    def __init__(self, pids, cores):
        self.groups = []
        for pid in pids:
            group = CPU / f"octet-skew-{pid}"
            group.mkdir()
            self.groups.append(group)
            period = max(PERIOD_US, int(QUOTA_US_MIN / cores))
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(int(cores * period)))
            (group / "cgroup.procs").write_text(str(pid))

    def remove(self):
        for group in self.groups:
            for _ in range(50):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)


class Epochs(threading.Thread):
    """Notes when a new placement comes into force."""

    def __init__(self, args, address):
        super().__init__(daemon=True)
        self.args, self.address, self.start_time, self.seen, self.stop = args, address, time.time(), [], False

    def run(self):
        last = None
        while not self.stop:
            result = subprocess.run([self.args.octet, "status", "--server", self.address, "--json"], capture_output=True,
                                    text=True)
            if result.returncode == 0:
                epoch = json.loads(result.stdout)["epoch"]
                if last is not None and epoch != last:
                    self.seen.append(time.time() - self.start_time)
                last = epoch
            time.sleep(0.5)


def recovery(rows, step=0.5, window=2.0, before=10.0, enough=0.95):
    """For each change of phase: throughput in the seconds before it, the lowest over a window after it, and seconds until
    a window has `enough` of what the new phase settles at (its second half). The first and the last step don't count."""
    wide = int(window / step)
    rate = [r["prompt_tokens_per_s"] + r["tokens_per_s"] for r in rows[:-1]]
    mean = lambda values: sum(values) / len(values)
    changes = [i for i in range(1, len(rate)) if rows[i]["phase"] != rows[i - 1]["phase"]]
    for at, end in zip(changes, changes[1:] + [len(rate)]):
        ahead = mean(rate[max(1, at - int(before / step)):at])
        settled = mean(rate[(at + end) // 2:end])
        windows = [mean(rate[i:i + wide]) for i in range(at, end - wide + 1)]
        first = next((i for i, value in enumerate(windows) if value >= enough * settled), None)
        took = "never" if first is None else f"{first * step:.1f} s"
        print(f"  phase {rows[at]['phase']:.0f}: {ahead:.0f} tokens/s before, at least {min(windows):.0f} after, settles at "
              f"{settled:.0f}, {enough:.0%} of that after {took}", flush=True)


def measure(args, phases, extra, directory):
    address = f"127.0.0.1:{7500 + extra}"
    cluster = subprocess.Popen([args.octet, "up", "--listen", address, "--workers", str(args.workers), "--replication",
                                "1", "--extra-replicas", str(extra), "--worker-threads", "1", "--threads", "1",
                                *args.model], stdout=subprocess.DEVNULL, stderr=open(directory / f"log{extra}", "w"))
    quota = None
    try:
        for _ in range(300):
            status = subprocess.run([args.octet, "status", "--server", address, "--json"], capture_output=True, text=True)
            if status.returncode == 0 and json.loads(status.stdout)["ready"]:
                break
            time.sleep(0.2)
        else:
            sys.exit("the cluster did not get ready")
        workers = json.loads(status.stdout)["workers"]
        if args.quota > 0:
            quota = Quota([w["pid"] for w in workers], args.quota)
        timeline = args.out.with_name(f"{args.out.stem}-{extra}.csv")
        epochs = Epochs(args, address)
        epochs.start()
        report = json.loads(run(args, "bench", "--server", address, "--skew", phases, "--timeline", timeline, "--requests",
                                args.requests, "--concurrency", args.concurrency, "--prompt-tokens", args.prompt,
                                "--max-tokens", args.tokens, "--json"))
        epochs.stop = True
        epochs.join()
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(open(timeline))]
        print(f"extra replicas {extra}: {report['failed']} of {report['requests']} requests failed, "
              f"{report['total_tokens_per_s']:.0f} tokens/s; new placements at {[round(t, 1) for t in epochs.seen]} s",
              flush=True)
        recovery(rows)
        return rows, epochs.seen
    finally:
        cluster.send_signal(signal.SIGTERM)
        cluster.wait()
        if quota:
            quota.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--octet", default=str(ROOT / "build" / "octet"))
    parser.add_argument("--model", help="a directory or GGUF file; default: the embedded one")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--probes", type=int, default=120)
    parser.add_argument("--pool", type=int, default=4)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--quota", type=float, default=0, help="cores a worker; 0: no limit")
    parser.add_argument("--extra", type=int, default=4)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "skew.svg")
    args = parser.parse_args()
    args.model = ["--model", args.model] if args.model else []
    args.out.parent.mkdir(parents=True, exist_ok=True)

    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    with tempfile.TemporaryDirectory() as work:
        directory = pathlib.Path(work)
        phases = directory / "phases"
        phases.write_text("\n".join(" ".join(map(str, ids)) for ids in pools(args, directory)) + "\n")
        series, marks = [], []
        for extra in (0, args.extra):
            rows, epochs = measure(args, phases, extra, directory)
            name = f"{extra} extra replicas" if extra else "no extra replicas"
            series.append((name, [(r["seconds"], r["prompt_tokens_per_s"] + r["tokens_per_s"], r["phase"]) for r in rows]))
            marks = epochs
        title = (f"Tokens/s while the hot expert moves: {args.workers} workers"
                 + (f" of {args.quota:g} cores each" if args.quota else "")
                 + f", {cpu.group(1) if cpu else 'unknown CPU'}, {len(os.sched_getaffinity(0))} cores")
        args.out.write_text(plot.timeline_chart(title, series, marks))


if __name__ == "__main__":
    main()
