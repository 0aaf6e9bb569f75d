"""One layer of 8x7B experts in bf16 with torch, in the shapes of bf16_bench.cc.

Prints one JSON object a line, as bench.h does. Ways: a loop of F.linear over the experts, and
torch._grouped_mm where this torch has it. Both time the experts alone, on rows that are already
bf16 and sorted by expert, and neither gathers nor combines.
"""

import json
import random
import statistics

import torch
import torch.nn.functional as F

HIDDEN, MIDDLE, EXPERTS = 4096, 14336, 8
MATMUL_FLOPS = 790e12


def report(name, value, unit, share):
    print(json.dumps({"name": name, "value": round(value, 6), "unit": unit,
                      "share": round(share, 4)}), flush=True)


def median_ms(run, repeat=10, batches=7):
    times = []
    for batch in range(-1, batches):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeat):
            run()
        end.record()
        end.synchronize()
        if batch >= 0:
            times.append(begin.elapsed_time(end) / repeat)
    return statistics.median(times)


def copy_bandwidth():
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (median_ms(lambda: target.copy_(source)) * 1e-3)


def route(tokens):
    """Rows of each expert: two random experts a token; the first choices of the first go round."""
    rng = random.Random(tokens)
    counts = [0] * EXPERTS
    for token in range(tokens):
        first = token if token < EXPERTS else rng.randrange(EXPERTS)
        second = (first + rng.randrange(1, EXPERTS)) % EXPERTS
        counts[first] += 1
        counts[second] += 1
    return counts


def make_weights():
    gate_up = torch.empty(EXPERTS, 2 * MIDDLE, HIDDEN, dtype=torch.bfloat16, device="cuda")
    down = torch.empty(EXPERTS, HIDDEN, MIDDLE, dtype=torch.bfloat16, device="cuda")
    for tensor in (gate_up, down):
        for expert in tensor:
            expert.normal_(0, 0.02)
    return gate_up, down


def loop(x, counts, gate_up, down):
    out = torch.empty_like(x)
    begin = 0
    for expert, count in enumerate(counts):
        if count == 0:
            continue
        rows = x[begin:begin + count]
        gate, up = F.linear(rows, gate_up[expert]).split(MIDDLE, dim=1)
        torch.mm(F.silu(gate) * up, down[expert].t(), out=out[begin:begin + count])
        begin += count
    return out


def grouped(x, ends, gate_up, down):
    both = torch._grouped_mm(x, gate_up.transpose(1, 2), offs=ends)
    gate, up = both.split(MIDDLE, dim=1)
    return torch._grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)


def measure(name, run, counts, bandwidth):
    try:
        ms = median_ms(run)
    except RuntimeError as error:
        print(json.dumps({"name": name, "error": str(error).splitlines()[0]}), flush=True)
        return
    seconds = ms * 1e-3
    weight_bytes = 6 * HIDDEN * MIDDLE * sum(count > 0 for count in counts)
    flops = 6 * HIDDEN * MIDDLE * sum(counts)
    report(name + "/time", ms, "ms", weight_bytes / bandwidth / seconds)
    report(name + "/products", flops / seconds * 1e-12, "TFLOP/s", flops / seconds / MATMUL_FLOPS)


def main():
    torch.manual_seed(1)
    bandwidth = copy_bandwidth()
    report("torch/copy", bandwidth * 1e-9, "GB/s", 1.0)
    gate_up, down = make_weights()
    side = 8192
    a = torch.randn(side, side, dtype=torch.bfloat16, device="cuda")
    b = torch.randn(side, side, dtype=torch.bfloat16, device="cuda")
    ms = median_ms(lambda: a @ b)
    report("torch/matmul_8192", 2 * side**3 / ms * 1e-9, "TFLOP/s",
           2 * side**3 / (ms * 1e-3) / MATMUL_FLOPS)
    del a, b
    with torch.inference_mode():
        for tokens in (1, 4, 16, 64, 512, 2048, 4096):
            counts = route(tokens)
            x = torch.randn(sum(counts), HIDDEN, dtype=torch.bfloat16, device="cuda")
            ends = torch.tensor(counts, device="cuda").cumsum(0).to(torch.int32)
            measure(f"torch_loop/tokens_{tokens}",
                    lambda: loop(x, counts, gate_up, down), counts, bandwidth)
            if hasattr(torch, "_grouped_mm"):
                measure(f"torch_grouped/tokens_{tokens}",
                        lambda: grouped(x, ends, gate_up, down), counts, bandwidth)


if __name__ == "__main__":
    main()
