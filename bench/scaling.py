#!/usr/bin/env python3
"""How a cluster on this machine scales: with workers, with sequences, with the network's round trip.

Starts the roles by hand, each worker behind build/bench/delay_proxy where a round trip is asked for, and prints one
Markdown table of tokens per second and of the ratio to the same engine in one process. Rounds are interleaved, each
figure is a median. Packs the model first, so that starts are short.

  bench/scaling.py model.gguf --workers 1,2,4,8 --sequences 1,16 --rtt-ms 0,0.1,1,5 --micro-batches 1,auto --json out.json
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent


class Process:
    """A child whose standard output is read line by line."""

    def __init__(self, command, log):
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=log, text=True)

    def line(self):
        return self.process.stdout.readline()

    def stop(self):
        self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    def __init__(self, args, workers, rtt_ms, micro_batches, directory):
        self.processes = []
        self.log = open(directory / "log", "a")
        coordinator = f"127.0.0.1:{free_port()}"
        # A network's round trip is one of gRPC.
        transport = ["--transport", args.transport if rtt_ms == 0 else "grpc"]
        self.start([args.octet, "coordinator", "--listen", coordinator, "--state-dir", directory / "state",
                    "--replication", args.replication])
        for _ in range(workers):
            listen = free_port()
            advertise = listen
            if rtt_ms > 0:
                proxy = self.start([args.proxy, listen, round(rtt_ms * 500)])
                advertise = int(proxy.line())
            self.start([args.octet, "worker", "--model", args.packed, "--listen", f"127.0.0.1:{listen}", "--advertise",
                        f"127.0.0.1:{advertise}", "--coordinator", coordinator, "--threads", args.worker_threads, *transport,
                        *args.worker_flag])
        self.address = f"127.0.0.1:{free_port()}"
        self.start([args.octet, "router", "--model", args.packed, "--listen", self.address, "--coordinator", coordinator,
                    "--threads", args.threads, "--micro-batches", micro_batches, *transport, *args.router_flag])
        deadline = time.time() + 60
        while not self.ready(args):
            if time.time() > deadline:
                sys.exit(f"the cluster did not get ready: see {self.log.name}")
            time.sleep(0.1)

    def start(self, command):
        process = Process(command, self.log)
        self.processes.append(process)
        return process

    def ready(self, args):
        result = subprocess.run([args.octet, "status", "--server", self.address, "--json"], capture_output=True, text=True)
        return result.returncode == 0 and json.loads(result.stdout)["ready"]

    def stop(self):
        for process in reversed(self.processes):
            process.stop()


def rate(args, target, sequences):
    result = subprocess.run([args.octet, "bench", *target, "--json", "--concurrency", str(sequences), "--requests",
                             str(2 * sequences), "--prompt-tokens", str(args.prompt), "--max-tokens", str(args.tokens)],
                            capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return json.loads(result.stdout)["output_tokens_per_s"]


def numbers(kind):
    return lambda text: [kind(t) for t in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--octet", default=str(ROOT / "build" / "octet"))
    parser.add_argument("--proxy", default=str(ROOT / "build" / "bench" / "delay_proxy"))
    parser.add_argument("--workers", type=numbers(int), default=[4])
    parser.add_argument("--sequences", type=numbers(int), default=[16])
    parser.add_argument("--rtt-ms", type=numbers(float), default=[0.0])
    parser.add_argument("--micro-batches", type=numbers(str), default=["auto"])
    parser.add_argument("--transport", choices=["grpc", "shm"], default="grpc", help="without a round trip to add")
    parser.add_argument("--router-flag", action="append", default=[], help="one more flag of octet router, as --a=b")
    parser.add_argument("--worker-flag", action="append", default=[], help="one more flag of octet worker, as --a=b")
    parser.add_argument("--threads", type=int, default=2, help="of the router")
    parser.add_argument("--worker-threads", type=int, default=2, help="of each worker")
    parser.add_argument("--pin", action="store_true", help="one thread of each role a core")
    parser.add_argument("--replication", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()

    # As `octet up` does where threads outnumber cores.
    shared = ["--spin=off"] + (["--cores", ",".join(map(str, sorted(os.sched_getaffinity(0))))] if args.pin else [])
    args.router_flag += shared
    args.worker_flag += shared
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    print(f"{cpu.group(1) if cpu else 'unknown CPU'}, {pathlib.Path(args.model).name}, median of {args.rounds} rounds\n")
    print("| workers | round trip, ms | micro-batches | sequences | cluster tok/s | one process tok/s | ratio |")
    print("|---|---|---|---|---|---|---|")
    figures = []
    with tempfile.TemporaryDirectory() as work:
        args.packed = pathlib.Path(work) / "packed"
        subprocess.run([args.octet, "pack", args.model, args.packed], check=True, capture_output=True)
        for index, (workers, rtt, parts) in enumerate((w, r, m) for w in args.workers for r in args.rtt_ms
                                                      for m in args.micro_batches):
            directory = pathlib.Path(work) / str(index)
            directory.mkdir()
            cluster = Cluster(args, workers, rtt, parts, directory)
            for sequences in args.sequences:
                rate(args, ["--server", cluster.address], sequences)  # warms caches and the choice of parts
                there, here = [], []
                for _ in range(args.rounds):
                    there.append(rate(args, ["--server", cluster.address], sequences))
                    here.append(rate(args, ["--model", str(args.packed), "--threads", str(args.threads)], sequences))
                a, b = statistics.median(there), statistics.median(here)
                figures.append({"workers": workers, "rtt_ms": rtt, "micro_batches": parts, "sequences": sequences,
                                "cluster": a, "one_process": b})
                print(f"| {workers} | {rtt:g} | {parts} | {sequences} | {a:.0f} | {b:.0f} | {a / b:.2f} |", flush=True)
            cluster.stop()
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
