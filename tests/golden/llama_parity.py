#!/usr/bin/env python3
"""Compares octet with llama.cpp on a dense GGUF model, dequantised to F32: greedy tokens of fixed
prompts, and the log-probabilities of a text.

Needs llama-cpp-python, gguf and numpy. By hand, from the repository root:

    python3 tests/golden/llama_parity.py SmolLM2-135M-Instruct.Q4_1.gguf

Both sides compute in f32 from the same weights, with an f32 KV cache, and are given token ids, not
text. What they may differ in is the order of sums: where the greedy tokens first differ, llama.cpp
must hold the two tokens to be within MARGIN_MAX of each other. Exit status 0: all is well; 1: not.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np

MARGIN_MAX = 1e-2
LOGPROB_DIFFERENCE_MAX = 1e-3
TOKENS_MIN = 24
ROOT = pathlib.Path(__file__).resolve().parents[2]


def question(text):
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "The three primary colours are",
    "1, 1, 2, 3, 5, 8, 13,",
    "In 1969, the first people",
    "A recipe for bread needs flour,",
    "#include <stdio.h>\n\nint main(",
    "Les oiseaux chantent",
    "{\"name\": \"Ada\", \"born\":",
    "The opposite of hot is",
    question("What is the capital of Italy?"),
    question("Explain in one sentence why the sky is blue."),
    question("Write a haiku about autumn."),
    question("What is 12 plus 30?"),
    question("Name five animals that live in the ocean."),
    question("How do I reverse a list in Python?"),
    question("Translate 'good morning' to Spanish."),
    question("Give me a short story about a clockmaker and a fox."),
]

TEXT = """The lighthouse at the end of the harbour had not been lit for eleven years. When the keeper
retired, the council promised a machine, and the machine came in four crates that nobody opened. Fishing
boats learned to steer by the church tower instead, and on foggy nights they simply stayed at home. Then,
one evening in March, a girl of nine walked out along the wall with a lamp in each hand. She had read that
light travels at 299,792 kilometres every second, and she wanted to see whether it would wait for her. She
set one lamp on the eastern step and one on the western step, sat down between them, and began to count.
By the time she had reached two hundred, a boat had turned in from the open sea; by three hundred there
were five. "Who lit the lamps?" asked the first captain, throwing his rope over the post. "I did," she
said. "You can have them, if you promise to bring them back." He took off his hat, looked at the dark
tower above them, and said that he would rather help her to open the crates.
"""


def write_f32(source, destination):
    """Copies a GGUF file with every tensor decoded to F32."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(destination, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        value = 0 if field.name == "general.file_type" else field.contents()
        writer.add_key_value(field.name, value, field.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        writer.add_tensor(tensor.name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Peer:
    """llama.cpp, f32 throughout."""

    def __init__(self, model, threads):
        self.llama = llama_cpp.Llama(
            str(model), n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads,
            n_gpu_layers=0, logits_all=True, flash_attn=False, type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32, verbose=False)

    def tokenize(self, text):
        return self.llama.tokenize(text.encode(), add_bos=False, special=True)

    def logits(self, ids):
        """[len(ids)][vocabulary], float64."""
        self.llama.reset()
        self.llama.eval(ids)
        return np.array(self.llama.scores[:len(ids)], dtype=np.float64)

    def greedy(self, ids, count):
        """Tokens, and the logits that each was chosen from. Goes on past end of sequence."""
        self.llama.reset()
        self.llama.eval(ids)
        tokens, rows = [], []
        for _ in range(count):
            rows.append(np.array(self.llama.scores[self.llama.n_tokens - 1], dtype=np.float64))
            tokens.append(int(np.argmax(rows[-1])))
            self.llama.eval([tokens[-1]])
        return tokens, rows


class Octet:
    def __init__(self, binary, model, scratch, threads):
        self.binary, self.ids_file = binary, scratch / "ids.txt"
        self.settings = ["--model", str(model), "--cache-dir", str(scratch / "cache"), "--kv-dtype",
                         "f32", "--experts", "f32", "--attention", "f32", "--threads", str(threads),
                         "--json"]

    def run(self, command, ids, *more):
        self.ids_file.write_text(" ".join(map(str, ids)) + "\n")
        call = [self.binary, command, "--ids", str(self.ids_file), *self.settings, *more]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"octet {command} failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def greedy(self, ids, count):
        return self.run("generate", ids, "--temperature", "0", "--ignore-eos", "--max-tokens",
                        str(count))["token_ids"]

    def logprobs(self, ids):
        """Of every token after the first."""
        return np.array(self.run("eval", ids)["logprobs"], dtype=np.float64)


def compare_greedy(peer, octet, count):
    """Prints a row for each prompt; the number that passed."""
    passed = 0
    print(f"{'prompt':<30} {'ids':>4} {'equal':>7} {'least margin':>13}  verdict")
    for prompt in PROMPTS:
        ids = peer.tokenize(prompt)
        want, rows = peer.greedy(ids, count)
        got = octet.greedy(ids, count)
        if len(got) != count:
            sys.exit(f"octet generated {len(got)} tokens, not {count}")
        equal = next((i for i in range(count) if want[i] != got[i]), count)
        # Of the first against the second of llama.cpp's choices: how near a tie the prompt came.
        tops = [np.partition(row, -2)[-2:] for row in rows[:min(equal + 1, count)]]
        least = min(float(top[1] - top[0]) for top in tops)
        verdict = "equal"
        if equal < count:
            margin = float(rows[equal][want[equal]] - rows[equal][got[equal]])
            verdict = f"margin {margin:.2e} at token {equal}: "
            verdict += "near tie" if margin < MARGIN_MAX else "FAILED"
        passed += "FAILED" not in verdict
        label = json.dumps(prompt.replace("<|im_start|>user\n", "").split("<|im_end|>")[0])
        label = label if len(label) <= 30 else label[:27] + "..."
        print(f"{label:<30} {len(ids):>4} {equal:>4}/{count} {least:>13.4f}  {verdict}", flush=True)
    return passed


def compare_logprobs(peer, octet):
    """Prints the differences over TEXT; the largest."""
    ids = peer.tokenize(TEXT)
    logits = peer.logits(ids)[:-1]
    top = logits.max(axis=1, keepdims=True)
    normaliser = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    want = logits[np.arange(len(ids) - 1), ids[1:]] - normaliser
    got = octet.logprobs(ids)
    if got.shape != want.shape:
        sys.exit(f"octet eval gave {got.shape} log-probabilities, llama.cpp {want.shape}")
    difference = np.abs(got - want)
    print(f"\ntext of {len(ids)} ids: log-probabilities differ by {difference.max():.2e} at most, "
          f"{difference.mean():.2e} on average")
    print(f"perplexity: octet {np.exp(-got.mean()):.6f}, llama.cpp {np.exp(-want.mean()):.6f}")
    return float(difference.max())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="GGUF file of a dense model")
    parser.add_argument("--octet", default=str(ROOT / "build" / "octet"), help="the binary")
    parser.add_argument("--tokens", type=int, default=32, help="per prompt [32]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", help="where a temporary directory of some GB goes")
    arguments = parser.parse_args()
    if arguments.tokens < TOKENS_MIN:
        parser.error(f"--tokens must be at least {TOKENS_MIN}")
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        scratch = pathlib.Path(scratch)
        model = scratch / "f32.gguf"
        write_f32(arguments.model, model)
        print(f"{pathlib.Path(arguments.model).name} as F32; llama-cpp-python "
              f"{llama_cpp.__version__}; {len(PROMPTS)} prompts, {arguments.tokens} greedy tokens\n")
        peer = Peer(model, arguments.threads)
        octet = Octet(arguments.octet, model, scratch, arguments.threads)
        passed = compare_greedy(peer, octet, arguments.tokens)
        difference = compare_logprobs(peer, octet)
    good = passed == len(PROMPTS) and difference <= LOGPROB_DIFFERENCE_MAX
    print(f"\n{'PASSED' if good else 'FAILED'}: {passed} of {len(PROMPTS)} prompts equal or first "
          f"different at a margin below {MARGIN_MAX:g}; log-probabilities within {difference:.2e} "
          f"(allowed {LOGPROB_DIFFERENCE_MAX:g})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
