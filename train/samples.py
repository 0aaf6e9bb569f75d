"""Twenty fixed questions and what a packed model answers: Markdown, every answer, none chosen.

    samples.py --model PACKED [--octet build/octet]

Each is asked as a user would, `octet generate --chat`, greedily.
"""

import argparse
import json
import subprocess
from pathlib import Path

# Not among the questions that prompts.py asks the teacher word for word (samples are not tests of
# memory), but of their kinds.
PROMPTS = [
    "Tell me a short story about a lighthouse keeper and a lost boat.",
    "Write a story about a hedgehog that wants to fly.",
    "Tell me a bedtime story about a quiet snowman.",
    "Write a story in which two sisters find an old radio.",
    "Explain why the moon changes its shape.",
    "What makes bread rise in the oven?",
    "Explain what a bridge does, as if I were five years old.",
    "How does a compass know where north is?",
    "What is a thunderstorm?",
    "I have an argument with my best friend. What can I do?",
    "I always forget where I put my glasses. Any advice?",
    "My little brother is afraid of the doctor. How can I help him?",
    "Hello! Who am I speaking with?",
    "How was your day?",
    "I am going on holiday tomorrow!",
    "How do I wash a woollen sweater?",
    "Give me four steps to make a paper plane.",
    "How can I keep my bicycle from rusting?",
    "What is the difference between a lake and a pond?",
    "Is it better to read in the morning or in the evening?",
]


def answer(octet: Path, model: Path, prompt: str, max_tokens: int) -> dict:
    done = subprocess.run(
        [octet, "generate", "--model", model, "--chat", "--prompt", prompt, "--json",
         "--temperature", "0", "--seed", "1", "--max-tokens", str(max_tokens)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"octet generate: {done.stderr.strip()}")
    return json.loads(done.stdout)


def quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="packed directory")
    parser.add_argument("--octet", type=Path, default=Path("build/octet"))
    parser.add_argument("--max-tokens", type=int, default=96)
    args = parser.parse_args()
    print(f"Greedy answers of at most {args.max_tokens} tokens; [...] marks one that was cut off.\n")
    for number, prompt in enumerate(PROMPTS, start=1):
        reply = answer(args.octet, args.model, prompt, args.max_tokens)
        text = reply["text"] + (" [...]" if reply["finish_reason"] == "length" else "")
        print(f"**{number}. {prompt}**\n\n{quoted(text)}\n", flush=True)


if __name__ == "__main__":
    main()
