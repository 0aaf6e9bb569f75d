#!/usr/bin/env python3
"""What the mechanisms of failover cost while nothing fails, by profile.

Starts `octet up`, keeps it busy with octet bench, samples all its processes with `perf record`, and adds up the samples in
the functions of each mechanism. Their share of all samples is the share of throughput that is lost to them at most: on a
machine whose cores are all busy. Planning is counted whole, though a cluster without failover would plan too.

  bench/failover_cost.py --model model.gguf --transport grpc,shm --sequences 1,16
"""

import argparse
import collections
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The first that fits a symbol counts.
MECHANISMS = [
    ("checksums and seals", r"Crc32c|SealFits|octet::Seal\b|SealOf"),
    ("attempts, hedges, late replies", r"AttemptTracker|LatencyEstimate|HedgeLate|::Hedge\(|MoveDisplaced|UnderWay|WorkerHealth"),
    ("choice of replicas", r"ReplicaChoice|ChooseReplicas|BuildDispatchPlan|PlanShares|replica_choice|PlacementLinks|AssignExperts"),
    ("digests, epochs, load counters", r"AdmitDispatch|ExpertStore::|LoadCounter|DispatchKey"),
    ("heartbeats and watching", r"CoordinatorClient|VersionState|ClusterState|MemberSession|CoordinatorService"),
    ("scrubbing", r"TreeSha256|Sha256|Scrubber"),
    ("admission, damage, tier", r"Admission|WorkerUse|KvTier|NoteWorkers"),
]


def pids_of(address, octet):
    status = json.loads(subprocess.run([octet, "status", "--server", address, "--json"], capture_output=True, text=True,
                                       check=True).stdout)
    return [m["pid"] for m in status["workers"] + status["routers"]]


def profile(args, transport, sequences, directory):
    address = "127.0.0.1:7630"
    model = ["--model", args.model] if args.model else []
    cluster = subprocess.Popen([args.octet, "up", "--listen", address, "--workers", str(args.workers), "--replication", "2",
                                "--transport", transport, *model], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    load = None
    try:
        for _ in range(600):
            status = subprocess.run([args.octet, "status", "--server", address, "--json"], capture_output=True, text=True)
            if status.returncode == 0 and json.loads(status.stdout)["ready"]:
                break
            time.sleep(0.1)
        else:
            sys.exit("the cluster did not get ready")
        load = subprocess.Popen([args.octet, "bench", "--server", address, "--concurrency", str(sequences),
                                 "--prompt-tokens", "16", "--max-tokens", "200", "--requests", "100000"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(2)
        data = directory / "perf.data"
        pids = ",".join(map(str, pids_of(address, args.octet) + [cluster.pid]))
        subprocess.run(["perf", "record", "-q", "-F", "997", "-e", "cpu-clock", "-p", pids, "-o", str(data), "--", "sleep",
                        str(args.seconds)], check=True, capture_output=True)
        report = subprocess.run(["perf", "report", "-i", str(data), "--stdio", "-F", "overhead,symbol", "--percent-limit",
                                 "0", "-w", "0,400"], capture_output=True, text=True, check=True).stdout
        shares = collections.Counter()
        for line in report.splitlines():
            match = re.match(r"\s*([0-9.]+)%\s+\[.\]\s+(.*)", line)
            if not match:
                continue
            name = next((n for n, pattern in MECHANISMS if re.search(pattern, match.group(2))), "all else")
            shares[name] += float(match.group(1))
        return shares
    finally:
        if load is not None:
            load.kill()
            load.wait()
        cluster.send_signal(signal.SIGTERM)
        cluster.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--octet", default=str(ROOT / "build" / "octet"))
    parser.add_argument("--model", help="a directory or GGUF file; default: the embedded one")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--transport", default="grpc,shm")
    parser.add_argument("--sequences", default="1,16")
    parser.add_argument("--seconds", type=int, default=8)
    args = parser.parse_args()
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    print(f"CPU: {cpu.group(1) if cpu else 'unknown'}, {args.workers} workers, replication 2")
    columns = [(t, s) for t in args.transport.split(",") for s in map(int, args.sequences.split(","))]
    with tempfile.TemporaryDirectory() as work:
        results = [profile(args, t, s, pathlib.Path(work)) for t, s in columns]
    print("| % of samples | " + " | ".join(f"{t}, {s}" for t, s in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name, _ in MECHANISMS:
        print(f"| {name} | " + " | ".join(f"{r[name]:.2f}" for r in results) + " |")
    totals = [sum(v for n, v in r.items() if n != "all else") for r in results]
    print("| together | " + " | ".join(f"{t:.2f}" for t in totals) + " |")


if __name__ == "__main__":
    main()
