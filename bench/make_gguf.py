#!/usr/bin/env python3
"""Makes a synthetic GGUF model of the Mixtral layout for benchmarks: random weights, a minimal valid
tokenizer, any size. Needs numpy and gguf.

  bench/make_gguf.py --params 100m --type q4_0 --out /tmp/moe-100m-q4_0.gguf
"""

import argparse

import gguf
import numpy as np

# hidden, intermediate, layers; eight experts of 3 * hidden * intermediate make up nearly all of it.
PRESETS = {"100m": (512, 1024, 8), "300m": (768, 2048, 8), "700m": (1024, 2816, 10),
           "1500m": (1280, 3584, 13)}
HEAD_DIM = 64
CONTEXT = 8192


def scaled(blocks, columns, d):
    """Puts the f16 `d` into the given byte columns of every block."""
    blocks[:, columns] = np.full((len(blocks), 1), d, np.float16).view(np.uint8)


def random_matrix(kind, shape, rng):
    """Weights of deviation about 1/sqrt(k), as GGUF data."""
    k = shape[-1]
    deviation = 1 / np.sqrt(k)
    if kind in ("F16", "BF16", "F32"):
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    count = int(np.prod(shape)) // block
    blocks = np.frombuffer(rng.bytes(count * block_bytes), np.uint8).reshape(count, -1).copy()
    if kind == "Q4_0":
        scaled(blocks, slice(0, 2), deviation / 4.61)  # (q - 8) d, q of 0..15
    elif kind == "Q8_0":
        scaled(blocks, slice(0, 2), deviation / 73.9)  # q d, q of -128..127
    elif kind == "Q4_K":
        d = deviation / 254
        scaled(blocks, slice(0, 2), d)
        scaled(blocks, slice(2, 4), 7.5 * d)
    return blocks.reshape(*shape[:-1], -1)


def add_tokenizer(writer, vocab):
    tokens, types = ["<unk>", "<s>", "</s>"], [2, 3, 3]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [6] * 256
    tokens += ["\u2581"] + [chr(c) for c in range(33, 127)]
    tokens += [f"\u2581w{i}" for i in range(vocab - len(tokens))]
    types += [1] * (vocab - len(types))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(vocab)])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def add_header(writer, args, hidden, intermediate, layers, heads, kv_heads):
    writer.add_name(f"synthetic-moe-{args.params}")
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(intermediate)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(args.vocab)
    writer.add_expert_count(args.experts)
    writer.add_expert_used_count(args.top_k)
    add_tokenizer(writer, args.vocab)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", choices=PRESETS, default="100m")
    parser.add_argument("--type", default="q4_0",
                        choices=["q4_0", "q8_0", "q4_k", "f16", "bf16", "f32"])
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--layers", type=int, help="instead of the preset's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    hidden, intermediate, layers = PRESETS[args.params]
    layers = args.layers or layers
    heads = hidden // HEAD_DIM
    kv_heads = heads // 4
    kind = args.type.upper()
    quantisation = gguf.GGMLQuantizationType[kind]
    rng = np.random.default_rng(args.seed)
    writer = gguf.GGUFWriter(args.out, "llama")
    add_header(writer, args, hidden, intermediate, layers, heads, kv_heads)
    total = 0

    def matrix(name, *shape):
        nonlocal total
        total += int(np.prod(shape))
        writer.add_tensor(name + ".weight", random_matrix(kind, shape, rng), raw_dtype=quantisation)

    def norm(name):
        writer.add_tensor(name + ".weight", np.ones(hidden, np.float32))

    matrix("token_embd", args.vocab, hidden)
    norm("output_norm")
    matrix("output", args.vocab, hidden)
    for layer in range(layers):
        p = f"blk.{layer}."
        norm(p + "attn_norm")
        norm(p + "ffn_norm")
        matrix(p + "attn_q", hidden, hidden)
        matrix(p + "attn_k", kv_heads * HEAD_DIM, hidden)
        matrix(p + "attn_v", kv_heads * HEAD_DIM, hidden)
        matrix(p + "attn_output", hidden, hidden)
        gate = rng.standard_normal((args.experts, hidden), dtype=np.float32) / np.sqrt(hidden)
        writer.add_tensor(p + "ffn_gate_inp.weight", gate.astype(np.float32))
        matrix(p + "ffn_gate_exps", args.experts, intermediate, hidden)
        matrix(p + "ffn_up_exps", args.experts, intermediate, hidden)
        matrix(p + "ffn_down_exps", args.experts, hidden, intermediate)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{args.out}: {total / 1e6:.0f} million parameters in {args.type}")


if __name__ == "__main__":
    main()
