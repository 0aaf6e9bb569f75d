#!/usr/bin/env python3
"""Makes the oracle models beside this file: tiny random models in the published file formats, each
with the logits that an independent implementation computes for a sequence of token ids.

Needs torch, transformers, safetensors and gguf (tested with transformers 5, gguf 0.19). Run it in
any directory: python3 tests/golden/models/make.py. The output is committed; tests do not run this.
"""

import json
import pathlib
import shutil

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
TORCH_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Experts k and k+1 of every token must differ by this in their gate's score, so that rounding can
# not choose another expert.
GATE_MARGIN_MIN = 1e-4


def shape(**overrides):
    base = dict(family="mixtral", hidden=32, intermediate=16, layers=2, heads=4, kv_heads=4,
                head_dim=8, vocab=96, experts=4, top_k=2, window=None, theta=10000.0, tied=False,
                gate="linear", tokens=24, eps=1e-5)
    base.update(overrides)
    return base


def random_weights(s, rng):
    """Weights in our own names, float32: layer weights are lists."""
    h, i, e = s["hidden"], s["intermediate"], s["experts"]
    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]

    def matrix(n, k, scale=1.0):
        return (rng.standard_normal((n, k)) * scale / np.sqrt(k)).astype(np.float32)

    def norm():
        return (1 + 0.1 * rng.standard_normal(h)).astype(np.float32)

    weights = {"embed": matrix(s["vocab"], h, np.sqrt(h)), "norm": norm(), "layers": []}
    if not s["tied"]:
        weights["head"] = matrix(s["vocab"], h, 2.0)
    for _ in range(s["layers"]):
        layer = {"attn_norm": norm(), "ffn_norm": norm(), "q": matrix(q, h), "k": matrix(kv, h),
                 "v": matrix(kv, h), "o": matrix(h, q),
                 "w1": [matrix(i, h) for _ in range(e)], "w3": [matrix(i, h) for _ in range(e)],
                 "w2": [matrix(h, i) for _ in range(e)]}
        if s["gate"] == "attention":
            for name in ("gate_query", "gate_key", "gate_value"):
                layer[name] = matrix(e, h, 2.0)
        elif e > 1:
            layer["gate"] = matrix(e, h, 2.0)
        weights["layers"].append(layer)
    return weights


def map_weights(weights, fn):
    """fn(name, array) on every array; experts' names are w1, w2, w3."""
    out = {}
    for name, value in weights.items():
        if name == "layers":
            out[name] = [map_weights(layer, fn) for layer in value]
        elif isinstance(value, list):
            out[name] = [fn(name, v) for v in value]
        else:
            out[name] = fn(name, value)
    return out


def rounded(weights, dtype):
    """What is left of the weights in the stored type, as float32."""
    torch_type = TORCH_TYPES[dtype]
    return map_weights(weights, lambda _, w: torch.tensor(w).to(torch_type).float().numpy())


# ---- Reference 1: transformers ----


def transformers_logits(s, weights, ids):
    common = dict(hidden_size=s["hidden"], intermediate_size=s["intermediate"],
                  num_hidden_layers=s["layers"], num_attention_heads=s["heads"],
                  num_key_value_heads=s["kv_heads"], head_dim=s["head_dim"],
                  vocab_size=s["vocab"], max_position_embeddings=512, rms_norm_eps=s["eps"],
                  rope_parameters={"rope_type": "default", "rope_theta": s["theta"]},
                  tie_word_embeddings=s["tied"], attn_implementation="eager")
    if s["family"] == "mixtral":
        config = transformers.MixtralConfig(num_local_experts=s["experts"],
                                            num_experts_per_tok=s["top_k"],
                                            sliding_window=s["window"], **common)
        model = transformers.MixtralForCausalLM(config)
    elif s["family"] == "mistral":
        model = transformers.MistralForCausalLM(
            transformers.MistralConfig(sliding_window=s["window"], **common))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))
    state = {"model.embed_tokens.weight": weights["embed"], "model.norm.weight": weights["norm"],
             "lm_head.weight": weights["embed"] if s["tied"] else weights["head"]}
    for n, layer in enumerate(weights["layers"]):
        p = f"model.layers.{n}."
        state[p + "input_layernorm.weight"] = layer["attn_norm"]
        state[p + "post_attention_layernorm.weight"] = layer["ffn_norm"]
        for name in "qkvo":
            state[p + f"self_attn.{name}_proj.weight"] = layer[name]
        if s["family"] == "mixtral":
            state[p + "mlp.gate.weight"] = layer["gate"]
            state[p + "mlp.experts.gate_up_proj"] = np.stack(
                [np.concatenate([a, b]) for a, b in zip(layer["w1"], layer["w3"])])
            state[p + "mlp.experts.down_proj"] = np.stack(layer["w2"])
        else:
            for name, ours in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
                state[p + f"mlp.{name}_proj.weight"] = layer[ours][0]
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    model = model.float().eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


# ---- Reference 2: written from the papers, in float64 ----


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gate_scores(s, layer, x):
    """[tokens, experts] scores whose softmax is the probability of each expert."""
    if s["gate"] == "linear":
        return x @ layer["gate"].T
    q, k, v = (x @ layer[f"gate_{n}"].T for n in ("query", "key", "value"))
    attention = softmax(q[:, :, None] * k[:, None, :])
    return (attention @ v[:, :, None])[:, :, 0]


def own_logits(s, weights, ids):
    weights = map_weights(weights, lambda _, w: w.astype(np.float64))
    d, heads, kv_heads = s["head_dim"], s["heads"], s["kv_heads"]
    count = len(ids)
    positions = np.arange(count)
    angle = positions[:, None] * s["theta"] ** (-2.0 * np.arange(d // 2) / d)[None, :]
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]

    def rms(x, w):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + s["eps"]) * w

    def rope(x):
        a, b = x[..., :d // 2], x[..., d // 2:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    visible = positions[None, :] <= positions[:, None]
    if s["window"]:
        visible &= positions[None, :] > positions[:, None] - s["window"]
    x = weights["embed"][ids]
    for layer in weights["layers"]:
        normed = rms(x, layer["attn_norm"])
        q = rope((normed @ layer["q"].T).reshape(count, heads, d))
        k = rope((normed @ layer["k"].T).reshape(count, kv_heads, d))
        v = (normed @ layer["v"].T).reshape(count, kv_heads, d)
        out = np.empty((count, heads, d))
        for h in range(heads):
            g = h // (heads // kv_heads)
            score = np.where(visible, q[:, h] @ k[:, g].T / np.sqrt(d), -np.inf)
            out[:, h] = softmax(score) @ v[:, g]
        x = x + out.reshape(count, heads * d) @ layer["o"].T
        normed = rms(x, layer["ffn_norm"])
        if s["experts"] == 1:
            chosen, share = np.zeros((count, 1), int), np.ones((count, 1))
        else:
            p = softmax(gate_scores(s, layer, normed))
            chosen = np.argsort(-p, axis=-1, kind="stable")[:, :s["top_k"]]
            share = np.take_along_axis(p, chosen, -1)
            share = share / share.sum(-1, keepdims=True)
            if s["top_k"] < s["experts"]:
                ordered = -np.sort(-p, axis=-1)
                margin = (ordered[:, s["top_k"] - 1] - ordered[:, s["top_k"]]).min()
                if margin < GATE_MARGIN_MIN:
                    return None
        y = np.zeros_like(x)
        for t in range(count):
            for e, w in zip(chosen[t], share[t]):
                gate = layer["w1"][e] @ normed[t]
                hidden = gate / (1 + np.exp(-gate)) * (layer["w3"][e] @ normed[t])
                y[t] += w * (layer["w2"][e] @ hidden)
        x = x + y
    x = rms(x, weights["norm"])
    return x @ (weights["embed"] if s["tied"] else weights["head"]).T


def make_oracle(s, weights_of_seed, directory):
    """Writes oracle.safetensors for the first seed without a near tie; returns what it built."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        weights = weights_of_seed(rng)
        ids = rng.integers(0, s["vocab"], s["tokens"]).tolist()
        own = own_logits(s, weights, ids)
        if own is not None:
            break
    else:
        raise SystemExit(f"{directory.name}: no seed without a near tie of experts")
    logits = own.astype(np.float32)
    if s["gate"] == "linear":
        logits = transformers_logits(s, weights, ids)
    difference = np.abs(own - logits).max()
    assert difference < 1e-4, f"{directory.name}: the two references differ by {difference}"
    save_file({"input_ids": torch.tensor(ids, dtype=torch.int32),
               "logits": torch.tensor(logits)}, directory / "oracle.safetensors")
    print(f"{directory.name}: seed {seed}, references differ by {difference:.1e}, "
          f"logits have a deviation of {logits.std():.2f}")
    return weights


def fresh(name):
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


# ---- Hugging Face directories ----


def hf_tensors(s, weights, fused):
    out = {"model.embed_tokens.weight": weights["embed"], "model.norm.weight": weights["norm"]}
    if not s["tied"]:
        out["lm_head.weight"] = weights["head"]
    for n, layer in enumerate(weights["layers"]):
        p = f"model.layers.{n}."
        out[p + "input_layernorm.weight"] = layer["attn_norm"]
        out[p + "post_attention_layernorm.weight"] = layer["ffn_norm"]
        for name in "qkvo":
            out[p + f"self_attn.{name}_proj.weight"] = layer[name]
        if s["family"] != "mixtral":
            for name, ours in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
                out[p + f"mlp.{name}_proj.weight"] = layer[ours][0]
            continue
        gate = p + ("mlp.gate." if fused else "block_sparse_moe.gate.")
        if s["gate"] == "attention":
            for name in ("query", "key", "value"):
                out[gate + name + ".weight"] = layer["gate_" + name]
        else:
            out[gate + "weight"] = layer["gate"]
        if fused:
            out[p + "mlp.experts.gate_up_proj"] = np.stack(
                [np.concatenate([a, b]) for a, b in zip(layer["w1"], layer["w3"])])
            out[p + "mlp.experts.down_proj"] = np.stack(layer["w2"])
        else:
            for e in range(s["experts"]):
                for name in ("w1", "w2", "w3"):
                    out[p + f"block_sparse_moe.experts.{e}.{name}.weight"] = layer[name][e]
    return out


def hf_config(s, dtype, nested_rope):
    names = {"mixtral": "MixtralForCausalLM", "mistral": "MistralForCausalLM",
             "llama": "LlamaForCausalLM"}
    config = {"architectures": [names[s["family"]]], "model_type": s["family"],
              "hidden_act": "silu", "hidden_size": s["hidden"],
              "intermediate_size": s["intermediate"], "num_hidden_layers": s["layers"],
              "num_attention_heads": s["heads"], "num_key_value_heads": s["kv_heads"],
              "vocab_size": s["vocab"], "max_position_embeddings": 512,
              "rms_norm_eps": s["eps"], "tie_word_embeddings": s["tied"], "bos_token_id": 1,
              "eos_token_id": [2, 3] if nested_rope else 2,
              "torch_dtype": {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype]}
    if s["heads"] * s["head_dim"] != s["hidden"] or nested_rope:
        config["head_dim"] = s["head_dim"]
    if s["family"] != "llama":
        config["sliding_window"] = s["window"]
    if s["family"] == "mixtral":
        config["num_local_experts"] = s["experts"]
        config["num_experts_per_tok"] = s["top_k"]
    if s["gate"] == "attention":
        config["router_type"] = "attention"
    if nested_rope:
        config["rope_parameters"] = {"rope_theta": s["theta"], "rope_type": "default"}
    else:
        config["rope_theta"] = int(s["theta"])
    return config


def make_hf(name, s, dtype, fused=False, nested_rope=False, shards=1):
    directory = fresh(name)
    weights = make_oracle(s, lambda rng: rounded(random_weights(s, rng), dtype), directory)
    config = hf_config(s, dtype, nested_rope)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {k: torch.tensor(v).to(TORCH_TYPES[dtype])
               for k, v in hf_tensors(s, weights, fused).items()}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {k: v for i, (k, v) in enumerate(tensors.items()) if i % shards == shard}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map.update({k: file for k in part})
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1) + "\n")


# ---- GGUF files ----


def random_blocks(kind, n, k, rng):
    """Random blocks of a k-quant as bytes; their values have a deviation of about 1/sqrt(k)."""
    sizes = {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}
    blocks = rng.integers(0, 256, (n * k // 256, sizes[kind]), dtype=np.uint8)

    def with_scale(d):
        half = np.full(len(blocks), d, np.float16)[:, None]
        if kind == "Q6_K":
            blocks[:, 208:210] = half.view(np.uint8)
        else:
            middle = 7.5 if kind == "Q4_K" else 15.5
            blocks[:, 0:2] = half.view(np.uint8)
            blocks[:, 2:4] = (half * np.float16(middle)).view(np.uint8)
        return blocks.reshape(n, -1)

    quantisation = gguf.GGMLQuantizationType[kind]
    deviation = gguf.quants.dequantize(with_scale(1e-4), quantisation).std() / 1e-4
    return with_scale(1 / (np.sqrt(k) * deviation)).copy()


def encode(weights, kinds, rng):
    """{weight: (bytes or array, type)} and the float32 values that they stand for."""
    def one(name, w):
        kind = kinds.get(name, kinds["default"]) if w.ndim > 1 and name != "gate" else "F32"
        quantisation = gguf.GGMLQuantizationType[kind]
        if kind in ("Q4_K", "Q5_K", "Q6_K"):
            data = random_blocks(kind, *w.shape, rng)
        else:
            data = gguf.quants.quantize(w, quantisation)
        return data, quantisation

    encoded = map_weights(weights, one)
    values = map_weights(encoded, lambda _, p: gguf.quants.dequantize(*p).astype(np.float32))
    return encoded, values


def interleave(rows, heads):
    """The order in which GGUF's "llama" keeps the rows of q and k: row 2i+j is row j*d/2+i."""
    n = rows.shape[0]
    return rows.reshape(heads, 2, n // heads // 2, -1).swapaxes(1, 2).reshape(n, -1)


def make_gguf(name, s, kinds, legacy=False):
    directory = fresh(name)
    kept = {}

    def weights_of_seed(rng):
        kept["encoded"], values = encode(random_weights(s, rng), kinds, rng)
        return values

    make_oracle(s, weights_of_seed, directory)
    writer = gguf.GGUFWriter(directory / "model.gguf", "llama")
    writer.add_block_count(s["layers"])
    writer.add_context_length(512)
    writer.add_embedding_length(s["hidden"])
    writer.add_feed_forward_length(s["intermediate"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["kv_heads"])
    writer.add_key_length(s["head_dim"])
    writer.add_value_length(s["head_dim"])
    writer.add_rope_dimension_count(s["head_dim"])
    writer.add_rope_freq_base(s["theta"])
    writer.add_layer_norm_rms_eps(s["eps"])
    writer.add_vocab_size(s["vocab"])
    if s["experts"] > 1:
        writer.add_expert_count(s["experts"])
        writer.add_expert_used_count(s["top_k"])

    def add(tensor, pair):
        data, kind = pair
        writer.add_tensor(tensor, np.ascontiguousarray(data), raw_dtype=kind)

    weights = kept["encoded"]
    add("token_embd.weight", weights["embed"])
    add("output_norm.weight", weights["norm"])
    if not s["tied"]:
        add("output.weight", weights["head"])
    for n, layer in enumerate(weights["layers"]):
        p = f"blk.{n}."
        add(p + "attn_norm.weight", layer["attn_norm"])
        add(p + "ffn_norm.weight", layer["ffn_norm"])
        add(p + "attn_q.weight", (interleave(layer["q"][0], s["heads"]), layer["q"][1]))
        add(p + "attn_k.weight", (interleave(layer["k"][0], s["kv_heads"]), layer["k"][1]))
        add(p + "attn_v.weight", layer["v"])
        add(p + "attn_output.weight", layer["o"])
        if s["experts"] > 1:
            add(p + "ffn_gate_inp.weight", layer["gate"])
        for part, ours in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
            if s["experts"] == 1:
                add(p + f"ffn_{part}.weight", layer[ours][0])
            elif legacy:
                for e in range(s["experts"]):
                    add(p + f"ffn_{part}.{e}.weight", layer[ours][e])
            else:
                stacked = np.stack([data for data, _ in layer[ours]])
                add(p + f"ffn_{part}_exps.weight", (stacked, layer[ours][0][1]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    make_hf("mixtral-f32", shape(theta=1e6, tokens=68), "f32")
    make_hf("mixtral-gqa4-bf16", shape(experts=8, heads=8, kv_heads=2, tokens=68), "bf16",
            nested_rope=True)
    make_hf("mixtral-top1-f16", shape(top_k=1), "f16")
    make_hf("mixtral-top4of16-bf16", shape(experts=16, top_k=4, layers=1), "bf16", fused=True)
    make_hf("mixtral-window-f16", shape(window=8, kv_heads=1, tokens=68), "f16", fused=True,
            nested_rope=True)
    make_hf("mixtral-tied-bf16", shape(tied=True), "bf16")
    make_hf("mixtral-sharded-bf16", shape(), "bf16", shards=3)
    make_hf("mixtral-attention-gate-f32", shape(gate="attention", tokens=40), "f32")
    make_hf("mixtral-attention-gate-fused-bf16", shape(gate="attention", experts=8, layers=1), "bf16",
            fused=True)
    dense = dict(experts=1, top_k=1, intermediate=48)
    make_hf("llama-f32", shape(family="llama", kv_heads=2, **dense), "f32")
    make_hf("mistral-window-bf16", shape(family="mistral", window=8, kv_heads=1, tokens=40,
                                         **dense), "bf16")
    small = dict(layers=1, intermediate=32, kv_heads=2)
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        make_gguf("gguf-" + kind.lower(), shape(**small), {"default": kind})
    make_gguf("gguf-legacy-f16", shape(**small), {"default": "F16"}, legacy=True)
    make_gguf("gguf-dense-tied-q8_0", shape(**small, family="llama", tied=True, experts=1, top_k=1),
              {"default": "Q8_0"})
    large = dict(hidden=256, intermediate=256, layers=1, heads=4, kv_heads=1, head_dim=64)
    make_gguf("gguf-q4_k", shape(**large, experts=2, top_k=1, vocab=64),
              {"default": "Q4_K", "w2": "Q6_K", "v": "Q6_K", "head": "Q6_K", "q": "Q5_K"})
    make_gguf("gguf-dense-q5_k", shape(**{**large, "heads": 1}, family="llama", tied=True,
                                       experts=1, top_k=1),
              {"default": "Q5_K", "w2": "Q4_K", "o": "Q8_0", "embed": "Q4_0"})


if __name__ == "__main__":
    main()
