"""The teacher, SmolLM2-135M-Instruct, in torch: many answers at once on a GPU.

    teacher.py MODEL.gguf DIR      # splits the GGUF file into what Teacher.load reads

DIR gets teacher.json (names, types, shapes, offsets), the tensors' bytes in parts of at most 48 MiB
and tokenizer.json. Only this step needs the `gguf` package; loading decodes Q4_1 and Q8_0 itself.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F

PART_BYTES = 48 << 20
END = "<|im_end|>"


def split(gguf_path: Path, out: Path) -> None:
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    reader = GGUFReader(gguf_path)
    out.mkdir(parents=True, exist_ok=True)
    tensors, data = [], bytearray()
    for tensor in reader.tensors:
        raw = tensor.data.tobytes()
        shape = [int(n) for n in reversed(tensor.shape)]
        tensors.append([tensor.name, tensor.tensor_type.name, shape, len(data), len(raw)])
        data += raw
    parts = range(0, len(data), PART_BYTES)
    for number, begin in enumerate(parts):
        (out / f"part-{number}").write_bytes(data[begin : begin + PART_BYTES])

    def value(key):
        return reader.fields[key].contents()

    config = {
        "layers": value("llama.block_count"),
        "heads": value("llama.attention.head_count"),
        "kv_heads": value("llama.attention.head_count_kv"),
        "theta": value("llama.rope.freq_base"),
        "eps": value("llama.attention.layer_norm_rms_epsilon"),
    }
    (out / "teacher.json").write_text(
        json.dumps({"config": config, "parts": len(parts), "tensors": tensors})
    )
    tokens = value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = value("tokenizer.ggml.token_type")
    control = [AddedToken(t, special=True) for t, kind in zip(tokens, kinds) if kind == 3]
    tokenizer.add_special_tokens(control)
    tokenizer.save(str(out / "tokenizer.json"))


def decode(raw: torch.Tensor, kind: str, shape: list[int]) -> torch.Tensor:
    """The values of a GGUF tensor's bytes, f32."""
    if kind == "F32":
        return raw.view(torch.float32).reshape(shape)
    if kind == "Q8_0":  # f16 d, 32 signed codes
        block = raw.view(-1, 34)
        scale = block[:, :2].contiguous().view(torch.float16).float()
        codes = block[:, 2:].contiguous().view(torch.int8).float()
        return (codes * scale).reshape(shape)
    if kind == "Q4_1":  # f16 d, f16 m, 16 bytes: low halves are the first 16 codes
        block = raw.view(-1, 20)
        scale = block[:, 0:2].contiguous().view(torch.float16).float()
        minimum = block[:, 2:4].contiguous().view(torch.float16).float()
        codes = torch.cat([block[:, 4:] & 15, block[:, 4:] >> 4], 1).float()
        return (codes * scale + minimum).reshape(shape)
    raise ValueError(f"tensor type {kind} is not one of F32, Q8_0, Q4_1")


def _before(x, norm, eps: float, w_qkv, cos, sin, kv_heads: int, group: int):
    """Attention's input of one layer: x [B, T, H] -> q [B, kv, T, group, d], k and v [B, kv, T, d]."""
    b, t, _ = x.shape
    q, k, v = F.linear(F.rms_norm(x, (x.shape[-1],), norm, eps), w_qkv).split(
        [kv_heads * group * 64, kv_heads * 64, kv_heads * 64], -1
    )

    def rotate(y):  # GGUF keeps the pairs of a rotation side by side
        even, odd = y.float()[..., 0::2], y.float()[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(y.dtype)

    q = rotate(q.view(b, t, kv_heads, group, 64).permute(0, 2, 1, 3, 4))
    cos, sin = cos.squeeze(-2), sin.squeeze(-2)
    k = rotate(k.view(b, t, kv_heads, 64).transpose(1, 2))
    return q, k, v.view(b, t, kv_heads, 64).transpose(1, 2)


def _after(x, attended, w_o, norm, eps: float, w_gate_up, w_down):
    """The rest of a layer; attended [B, T, heads * d]."""
    x = x + F.linear(attended, w_o)
    gate, up = F.linear(F.rms_norm(x, (x.shape[-1],), norm, eps), w_gate_up).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w_down)


def _draw(logits, noise, temperature: float, log_min_p: float):
    """min-p sampling by the Gumbel trick: no sort over the vocabulary. noise: uniform in [0, 1)."""
    scaled = logits.float() / temperature
    keep = scaled >= scaled.amax(-1, keepdim=True) + log_min_p
    gumbel = -torch.log(-torch.log(noise.clamp(1e-12, 1 - 1e-7)))
    return torch.where(keep, scaled + gumbel, float("-inf")).argmax(-1)


def _attend(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def _attend_plainly(q, k, v):
    """The same as two batched products: q [B, kv, group, d] is too short to fill a fused kernel's tile."""
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * (q.shape[-1] ** -0.5)
    return torch.matmul(torch.softmax(scores, -1).to(v.dtype), v)


class Teacher:
    """Weights in bf16 (f32 on a CPU). Prompts of one batch have the same length: nothing is padded."""

    def __init__(self, folder: Path, device: str):
        meta = json.loads((folder / "teacher.json").read_text())
        raw = b"".join((folder / f"part-{i}").read_bytes() for i in range(meta["parts"]))
        data = torch.frombuffer(bytearray(raw), dtype=torch.uint8).to(device)
        self.device = device
        self.dtype = torch.bfloat16 if device == "cuda" else torch.float32
        c = meta["config"]
        self.layers, self.kv = c["layers"], c["kv_heads"]
        self.group, self.eps = c["heads"] // c["kv_heads"], c["eps"]
        w = {
            name: decode(data[begin : begin + size], kind, shape).to(self.dtype)
            for name, kind, shape, begin, size in meta["tensors"]
        }
        self.embedding, self.norm = w["token_embd.weight"], w["output_norm.weight"]
        self.weights = []
        for i in range(self.layers):
            def of(name, i=i):
                return w[f"blk.{i}.{name}.weight"]
            self.weights.append((
                of("attn_norm"), torch.cat([of("attn_q"), of("attn_k"), of("attn_v")]),
                of("attn_output"), of("ffn_norm"), torch.cat([of("ffn_gate"), of("ffn_up")]),
                of("ffn_down"),
            ))  # fmt: skip
        frequencies = c["theta"] ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
        angles = torch.arange(1024, dtype=torch.float64)[:, None] * frequencies
        self.cos, self.sin = angles.cos().float().to(device), angles.sin().float().to(device)
        self.before, self.after, self.draw, self.attend = _before, _after, _draw, _attend
        if device == "cuda":
            # cuDNN builds a plan for each new length of the cache, which takes longer than the step.
            torch.backends.cuda.enable_cudnn_sdp(False)
            torch._dynamo.config.suppress_errors = True  # a failing compiler costs speed, no more
            self.before, self.after, self.draw = (
                torch.compile(f, dynamic=True) for f in (_before, _after, _draw)
            )

    def choose_attention(self, batch: int) -> str:
        """Times both ways to attend to caches of growing lengths and takes the faster."""
        cache = torch.randn(batch, self.kv, 256, 64, device=self.device).to(self.dtype)
        q = cache[:, :, : self.group].contiguous()
        times = {}
        for attend in (_attend, _attend_plainly):
            for length in range(192, 208):
                if length == 200:
                    torch.cuda.synchronize()
                    begin = time.monotonic()
                attend(q, cache[:, :, :length], cache[:, :, :length])
            torch.cuda.synchronize()
            times[attend] = (time.monotonic() - begin) / 8
        self.attend = min(times, key=times.get)
        return ", ".join(f"{f.__name__} {1e3 * t:.2f} ms" for f, t in times.items())

    def _step(self, ids, keys, values, begin: int):
        """Logits after the last of ids [B, T] at positions from `begin` on; fills the cache."""
        b, t = ids.shape
        x = F.embedding(ids, self.embedding)
        cos = self.cos[begin : begin + t].view(1, 1, t, 1, 32)
        sin = self.sin[begin : begin + t].view(1, 1, t, 1, 32)
        for i, (norm1, w_qkv, w_o, norm2, w_gate_up, w_down) in enumerate(self.weights):
            q, k, v = self.before(x, norm1, self.eps, w_qkv, cos, sin, self.kv, self.group)
            keys[i][:, :, begin : begin + t] = k
            values[i][:, :, begin : begin + t] = v
            if t == 1:  # the heads of a group are the queries of their key head
                heads = self.attend(
                    q[:, :, 0], keys[i][:, :, : begin + 1], values[i][:, :, : begin + 1]
                )
                attended = heads.reshape(b, 1, -1)
            else:  # from an empty cache
                spread = (b, self.kv, self.group, t, 64)
                heads = F.scaled_dot_product_attention(
                    q.transpose(2, 3).reshape(b, -1, t, 64),
                    k[:, :, None].expand(spread).reshape(b, -1, t, 64),
                    v[:, :, None].expand(spread).reshape(b, -1, t, 64),
                    is_causal=True,
                )
                attended = heads.transpose(1, 2).reshape(b, t, -1)
            x = self.after(x, attended, w_o, norm2, self.eps, w_gate_up, w_down)
        last = F.rms_norm(x[:, -1], (x.shape[-1],), self.norm, self.eps)
        return F.linear(last, self.embedding)

    @torch.inference_mode()
    def answer(self, prompts, max_tokens: int, end: int, temperature=0.6, min_p=0.1, seed=0):
        """Answers to prompts [B, T] (equal lengths): a list of (ids without the end, ended?).

        temperature 0 is greedy. Rows that ended are taken out of the batch now and then.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        log_min_p = torch.tensor(min_p).log().item()
        ids = torch.tensor(prompts, device=self.device)
        b, t = ids.shape
        shape = (b, self.kv, t + max_tokens, 64)
        keys = [torch.empty(shape, device=self.device, dtype=self.dtype) for _ in range(self.layers)]
        values = [torch.empty_like(k) for k in keys]
        out = torch.full((b, max_tokens), end, device=self.device)
        rows = torch.arange(b, device=self.device)
        alive = torch.ones(b, dtype=torch.bool, device=self.device)
        for n in range(max_tokens):
            # All prompts at once would make the keys of every head: a part at a time.
            if n == 0:
                logits = torch.cat([
                    self._step(part, [k[s : s + 512] for k in keys], [v[s : s + 512] for v in values], 0)
                    for s, part in zip(range(0, b, 512), ids.split(512))
                ])  # fmt: skip
            else:
                logits = self._step(token[:, None], keys, values, t + n - 1)
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                noise = torch.rand(logits.shape, device=self.device, generator=generator)
                token = self.draw(logits, noise, temperature, log_min_p)
            token = torch.where(alive, token, end)
            out[rows, n] = token
            alive &= token != end
            if n % 24 == 23:
                left = int(alive.sum())
                if left == 0:
                    break
                if left < 0.8 * len(rows):
                    rows, token = rows[alive], token[alive]
                    keys, values = [k[alive] for k in keys], [v[alive] for v in values]
                    alive = alive[alive]
        answers = []
        for row in out.tolist():
            ended = end in row
            answers.append((row[: row.index(end)] if ended else row, ended))
        return answers


def main() -> None:
    parser = argparse.ArgumentParser(description="Splits a GGUF teacher into parts.")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    split(args.gguf, args.out)


if __name__ == "__main__":
    main()
