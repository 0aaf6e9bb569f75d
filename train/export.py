"""Writes a checkpoint as a Hugging Face style directory that `octet pack` reads.

    export.py runs/tiny/model OUT --tokenizer data/tokenizer.model [--dtype bf16|f32]

The layout is Mixtral's, with "router_type" and, for an attention gate, one matrix each for query, key
and value. The checkpoint is the folder of release.py's `pack`, or a file with {"config", "model"} and
maybe more (train.py's last.pt, what even_gates.py wrote).
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from data import BOS, CHAT_TEMPLATE, EOS, ROLES, UNKNOWN
from model import Config, Model

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def load(checkpoint: Path) -> Model:
    """The model of a checkpoint in f32, on the CPU."""
    if checkpoint.is_dir():
        from release import unpack

        state = unpack(checkpoint)
    else:
        state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    model = Model(Config(**state["config"]), seed=0)
    model.load_state_dict(state["model"])  # converts to f32
    return model.eval()


def hf_config(c: Config, dtype: str) -> dict:
    if c.gate not in ("attention", "linear"):
        raise ValueError(f'gate "{c.gate}" cannot be served; allowed are attention and linear')
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "router_type": c.gate,
        "vocab_size": c.vocab,
        "hidden_size": c.hidden,
        "intermediate_size": c.ffn,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "num_local_experts": c.experts,
        "num_experts_per_tok": c.top_k,
        "max_position_embeddings": c.context,
        "sliding_window": None,
        "rope_theta": c.theta,
        "rms_norm_eps": c.eps,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "torch_dtype": {"bf16": "bfloat16", "f32": "float32"}[dtype],
    }


def tensors(model: Model) -> dict[str, Tensor]:
    c = model.config
    out = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.norm}
    for i, layer in enumerate(model.layers):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = layer.attention_norm
        out[p + "post_attention_layernorm.weight"] = layer.ffn_norm
        for name in "qkvo":
            out[f"{p}self_attn.{name}_proj.weight"] = getattr(layer, name)
        gate = p + "block_sparse_moe.gate."
        if c.gate == "attention":
            for name, part in zip(("query", "key", "value"), layer.gate.chunk(3)):
                out[f"{gate}{name}.weight"] = part
        else:
            out[gate + "weight"] = layer.gate
        for e in range(c.experts):
            expert = f"{p}block_sparse_moe.experts.{e}."
            out[expert + "w1.weight"], out[expert + "w3.weight"] = layer.gate_up[e].chunk(2)
            out[expert + "w2.weight"] = layer.down[e]
    return out


@torch.no_grad()
def load_export(directory: Path) -> Model:
    """The model of a written directory, its weights as they are there."""
    j = json.loads((directory / "config.json").read_text())
    config = Config(
        vocab=j["vocab_size"], hidden=j["hidden_size"], layers=j["num_hidden_layers"],
        heads=j["num_attention_heads"], kv_heads=j["num_key_value_heads"],
        ffn=j["intermediate_size"], experts=j["num_local_experts"], top_k=j["num_experts_per_tok"],
        gate=j["router_type"], theta=j["rope_theta"], eps=j["rms_norm_eps"],
        context=j["max_position_embeddings"],
    )  # fmt: skip
    model = Model(config, seed=0)
    saved = load_file(directory / "model.safetensors")
    for name, tensor in tensors(model).items():  # views of the parameters
        tensor.copy_(saved[name])
    return model.eval()


def tokenizer_config(c: Config) -> dict:
    return {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": c.context,
        "chat_template": CHAT_TEMPLATE,
        # Where a prompt's text holds these, they are their ids. SentencePiece itself would spell
        # <s> and </s> out.
        "added_tokens_decoder": {
            str(i): {"content": content, "special": True, "lstrip": False, "rstrip": False,
                     "normalized": False, "single_word": False}
            for i, content in [(UNKNOWN, "<unk>"), (BOS, "<s>"), (EOS, "</s>"),
                               *enumerate(ROLES, start=EOS + 1)]
        },
    }  # fmt: skip


def export(model: Model, out: Path, tokenizer: Path, dtype: str = "bf16") -> None:
    config = hf_config(model.config, dtype)  # refuses before anything is written
    out.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to(DTYPES[dtype]).contiguous() for name, tensor in tensors(model).items()
    }
    # Parts of one tensor share its memory, which safetensors refuses.
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "tokenizer_config.json").write_text(
        json.dumps(tokenizer_config(model.config), indent=1) + "\n"
    )
    shutil.copyfile(tokenizer, out / "tokenizer.model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    args = parser.parse_args()
    model = load(args.checkpoint)
    export(model, args.out, args.tokenizer, args.dtype)
    whole, active = model.config.parameters()
    print(f"{args.out}: {whole} parameters, {active} for a token, {args.dtype}")


if __name__ == "__main__":
    main()
