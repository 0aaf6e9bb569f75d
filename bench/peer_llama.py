#!/usr/bin/env python3
"""Measures llama.cpp (PyPI llama-cpp-python) on one GGUF file and prints one JSON line.

Times, each a median over --repeat runs after a warm-up: prefill of --prompt tokens in one batch, decode of
--tokens tokens by one sequence, and decode of --tokens tokens by --sequences sequences together. Tokens are
chosen by a fixed rule, not sampled, so that only the model is timed.
"""

import argparse
import ctypes
import json
import statistics
import time

import llama_cpp


def make_context(model, threads, context, sequences):
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = context
    params.n_batch = 2048
    params.n_ubatch = 512
    params.n_seq_max = sequences
    params.n_threads = threads
    params.n_threads_batch = threads
    params.kv_unified = True
    context_ptr = llama_cpp.llama_init_from_model(model, params)
    if not context_ptr:
        raise SystemExit("llama.cpp could not make a context")
    return context_ptr


def fill(batch, entries):
    """entries: (token, position, sequence, wants logits)."""
    batch.n_tokens = len(entries)
    for i, (token, position, sequence, logits) in enumerate(entries):
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = logits


def decode(context, batch):
    if llama_cpp.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")
    llama_cpp.llama_synchronize(context)


def clear(context):
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)


def token_at(i, vocab):
    return 3 + (i * 7919) % (vocab - 3)


def time_prefill(context, batch, prompt, vocab):
    clear(context)
    fill(batch, [(token_at(i, vocab), i, 0, i == prompt - 1) for i in range(prompt)])
    start = time.perf_counter()
    decode(context, batch)
    return prompt / (time.perf_counter() - start)


def time_decode(context, batch, sequences, tokens, prompt, vocab):
    clear(context)
    for s in range(sequences):
        fill(batch, [(token_at(i + s, vocab), i, s, i == prompt - 1) for i in range(prompt)])
        decode(context, batch)
    start = time.perf_counter()
    for t in range(tokens):
        fill(batch, [(token_at(t + s, vocab), prompt + t, s, True) for s in range(sequences)])
        decode(context, batch)
    return sequences * tokens / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    llama_cpp.llama_backend_init()
    callback = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(
        args.model.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit("llama.cpp could not load " + args.model)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    context = make_context(model, args.threads, 4096, args.sequences)
    batch = llama_cpp.llama_batch_init(2048, 0, 1)

    prompts = [time_prefill(context, batch, args.prompt, vocab) for _ in range(args.repeat + 1)]
    singles = [time_decode(context, batch, 1, args.tokens, 16, vocab)
               for _ in range(args.repeat + 1)]
    many = [time_decode(context, batch, args.sequences, args.tokens, 16, vocab)
            for _ in range(args.repeat + 1)]
    print(json.dumps({
        "prefill_tok_s": statistics.median(prompts[1:]),
        "decode_tok_s": statistics.median(singles[1:]),
        "decode_many_tok_s": statistics.median(many[1:]),
        "llama_cpp_python": llama_cpp.__version__,
    }))


if __name__ == "__main__":
    main()
