"""The questions that the teacher is asked: templates over a wide vocabulary of topics.

Topics are the nouns of WordNet (Debian's wordnet-base) that its tagged texts use more than once, by
kind, so that the width does not depend on a list that somebody liked. A list of everyday questions
is asked more often. Run as a program it writes them to a file:

    prompts.py --wordnet /usr/share/wordnet --out train/data/topics.json

`questions(topics, count, seed)` gives the same questions for the same arguments.
"""

import argparse
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

# WordNet's lexicographer files of the nouns used here (lexnames(5WN)).
KINDS = {
    "animal": [5],
    "thing": [6, 17],
    "body": [8],
    "idea": [4, 7, 9, 10],
    "event": [11, 19, 22],
    "feeling": [12],
    "food": [13],
    "group": [14],
    "place": [15],
    "person": [18],
    "plant": [20],
    "substance": [27],
}

# Words that make a poor or an unfit question.
UNFIT = re.compile(
    r"sex|rape|porn|genital|nazi|slave|suicid|murder|kill|whore|bastard|negro|jew|breast|penis|"
    r"vagina|drug|heroin|weapon|bomb|gun|ass$|bitch|damn|nigg|torture|corpse|abortion|incest"
)


@dataclass(frozen=True)
class Question:
    kind: str
    topic: str
    text: str
    max_tokens: int


def topics_of(wordnet: Path) -> dict[str, list[list]]:
    """By kind, [word, how often its sense was tagged], the most frequent first."""
    kind_of_file = {number: kind for kind, numbers in KINDS.items() for number in numbers}
    counts: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    for line in (wordnet / "cntlist.rev").read_text().splitlines():
        key, sense, count = line.split()
        lemma, rest = key.split("%")
        part, file_number = rest.split(":")[:2]
        word = lemma.replace("_", " ")
        if part != "1" or sense not in ("1", "2") or int(count) < 2 or not re.fullmatch(r"[a-z][a-z ]{2,24}", word):
            continue
        kind = kind_of_file.get(int(file_number))
        if kind is not None and not UNFIT.search(word):
            counts[kind][word] = max(counts[kind].get(word, 0), int(count))
    return {
        kind: [list(pair) for pair in sorted(words.items(), key=lambda w: (-w[1], w[0]))]
        for kind, words in counts.items()
    }


HEROES = """
a little girl named {name}|a boy named {name}|an old {person} named {name}|a young {person}|
a clever {animal}|a small {animal}|a brave {animal} with a shy friend|{name}, a friend of {name2},|
a lonely {person}|a {person} with a {animal}|{name}, who has a {animal},|a family with a {animal}|
a tired {person}|a curious {animal}|a teacher named {name}|a grandmother and her grandson {name}
""".replace("\n", "").split("|")
NAMES = """Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Rosa Sam
Tom Lily Max Sara Peter Lucy Oscar Ella Hugo Nina Adam Zoe Amir Mei Omar Priya Kofi Yuki Diego Fatima
Ivan Lena Mary John Alice Bob Ruth Simon Tara Victor Wendy Carlos""".split()
DEEDS = """
finds a {thing}|loses a {thing}|learns to share|wants to see the {place}|gets lost near the {place}|
makes a new friend|is afraid of the dark|builds a {thing}|helps a {person}|plants a garden|
learns to swim|forgets a birthday|tells a lie and is sorry|cooks {food} for the first time|
hears a strange sound at night|waits for the rain to stop|goes on a long journey|wins a race|
breaks a {thing} and tells the truth|learns what {feeling} means|finds a map|misses the bus|
takes care of a sick {animal2}|moves to a new town|sees the sea for the first time|learns to be patient|
wants a {thing} very much|discovers a secret about the {place}|saves the day|has a bad dream|
gives away a {thing}|meets a {person} in the forest|learns to say no|fixes an old {thing}
""".replace("\n", "").split("|")
TASKS = """
cook rice|make a cup of tea|bake bread|plant a tree|learn a new language|save money|sleep better|
write a letter|read more books|clean a kitchen|take care of a dog|take care of a cat|grow tomatoes|
study for an exam|make new friends|stay calm when I am angry|speak in front of people|draw a face|
ride a bicycle|wash clothes by hand|pack a suitcase|plan a trip|write a short story|use less water|
keep a room tidy|wake up early|learn to swim|choose a good book|make a salad|boil an egg|paint a wall|
write a good email|prepare for a job interview|say sorry to a friend|start running|eat more vegetables|
take a good photo|learn to play the guitar|fix a flat tire|remember names|use time well|say no politely|
celebrate a birthday|make a simple soup|learn to type fast|back up my files|choose a safe password|
teach a child to read|build a bird house|keep plants alive|write a poem|learn mathematics|
be a good listener|ask for help|stop worrying|make pancakes|care for old books|find a lost key|
explain a hard idea|give a present|write a diary|use a map|light a campfire safely|cross a busy street|
stay healthy in winter|work well in a team|learn from a mistake|plan a week|buy fresh fruit|
recycle paper|make a paper boat|learn to sing|help a neighbour|choose a computer|write clear code|
test a program|organise my desk|prepare a garden for spring|keep bread fresh|sew a button|tie a knot
""".replace("\n", "").split("|")
TROUBLES = """
I feel sad today|I am nervous about my new school|my friend does not talk to me|I am tired all the time|
I made a mistake at work|I lost my {thing}|I can't sleep|my {animal} is ill|I am bored|I feel lonely|
I have too much to do|I am afraid of a {animal}|I forgot a birthday|I can't decide what to cook|
I want to learn about {idea}|I argued with my brother|I am late again|I don't like my job|
I spend too much time on my phone|I am moving to another city|I broke a {thing} of my neighbour|
I want to be braver|nobody listens to me|I have an exam tomorrow|it rains and I am at home|
I don't understand {idea}|I miss my family|I am angry|I am proud of what I did|I have good news
""".replace("\n", "").split("|")

EVERYDAY = """
Why is the sky blue?|How do airplanes fly?|What is gravity?|Why do we sleep?|How does a computer work?|
What is the sun?|Why does it rain?|What is a friend?|How do plants grow?|What is music?|
Why do leaves change colour in autumn?|What is the moon?|How do fish breathe?|What is an atom?|
Why do birds sing?|What is electricity?|How does the heart work?|What is a volcano?|Why is water wet?|
What is democracy?|How do bees make honey?|What is the internet?|Why do we have seasons?|
What is a computer program?|How do magnets work?|What is history?|Why do cats purr?|What is art?|
How does a bicycle stay upright?|What is money?|Why do we dream?|What is the ocean?|How is glass made?|
What is a planet?|Why do people laugh?|What is science?|How does a clock work?|What is a forest?|
Why is exercise good for us?|What is mathematics?|How do we see colours?|What is a river?|
Why do we need water?|What is light?|How does a telephone work?|What is a dinosaur?|Why do we cry?|
What is a rainbow?|How is bread made?|What is energy?|Why do dogs bark?|What is a star?|
How does memory work?|What is a library?|Why is sleep important?|What is the brain?|What is a map?|
How do boats float?|What is weather?|Why do we go to school?|What is a city?|What is love?|
How do trains move?|What is snow?|Why is the sea salty?|What is language?|How do spiders make webs?|
What is a robot?|Why is honesty important?|What is a garden?|How does rain form?|What is ice?|
What is the capital of France?|What is the largest animal?|How many days are in a week?|
What is the fastest animal?|What colour is grass?|Where does the sun rise?|What do cows eat?|
Tell me something interesting.|Tell me a joke.|Can you help me?|What can I cook for dinner?|
Give me an idea for a weekend.|What is a good book?|How can I be happy?|What should I learn?|
Tell me about animals.|Tell me about space.|Tell me about the sea.|Tell me about winter.|
Tell me about trees.|Tell me about food.|Write a poem about the sea.|Write a poem about spring.|
Write a poem about a cat.|Write a poem about the night.|Write a short letter to a friend.|
Tell me a story.|Tell me a bedtime story.|Tell me a story about a dragon.|Tell me a story about the sea.
""".replace("\n", "").split("|")

SHORT = " Answer in one or two sentences."
# (kind, share, longest answer in tokens, how often one question may be asked, texts). The teacher
# draws its answers, so a question asked again is answered in other words.
TEMPLATES = [
    ("story", 30, 320, 1, [
        "Write a short story about {hero} who {deed}.",
        "Tell me a short story for children about {hero} who {deed}.",
        "Write a story with a happy ending: {hero} {deed}.",
        "Tell me a story about {hero} and a {thing2}.",
        "Write a short story that teaches something about {feeling}. It is about {hero}.",
    ]),
    ("explain", 24, 224, 3, [
        "Explain {any} in simple words.", "What is {any}?", "Tell me about {any}.",
        "Why is {any} important?", "What should I know about {any}?", "How would you describe {any}?",
        "Explain to a child what {any} is.", "What is {any} used for?", "Where do we find {any}?",
    ]),
    ("short", 14, 80, 2, [
        "What is {any}?" + SHORT, "What does the word \"{any}\" mean?" + SHORT,
        "Why do people like {any}?" + SHORT, "Tell me one fact about {any}.",
        "Use the word \"{any}\" in a sentence.", "Where would I see {any}?" + SHORT,
    ]),
    ("everyday", 8, 224, 200, ["{everyday}"]),
    ("howto", 9, 224, 40, [
        "How do I {task}?", "Give me three tips to {task}.", "What is the best way to {task}?",
        "I want to {task}. Where do I start?",
    ]),
    ("advice", 7, 160, 4, ["{trouble}. What should I do?", "{trouble}. Can you help me?", "{trouble}."]),
    ("dialogue", 8, 224, 1, [
        "Write a short conversation between {name} and {name2} about {any}.",
        "Write a dialogue in which {name} asks a {person} about {any}.",
    ]),
    ("compare", 4, 160, 1, ["What is the difference between {pair}?", "Compare {pair}."]),
    ("describe", 4, 160, 2, [
        "Describe a {thing} to someone who has never seen one.", "Describe the {place} in the morning.",
        "Describe a {animal}.", "Describe a {person} at work.",
    ]),
]


def _fill(text: str, topics: dict[str, list[list]], rng: random.Random) -> tuple[str, str]:
    """The text with its fields filled, and its topic: the first word filled in."""
    first = ""

    def word(kind: str) -> str:
        words = topics[kind]
        # Frequent words more often, and every word at times.
        return words[int(len(words) * rng.random() ** 2.5)][0]

    def field(match: re.Match) -> str:
        nonlocal first
        name = match.group(1)
        base = name.rstrip("2")
        if base == "name":
            return rng.choice(NAMES)
        if base == "hero":
            return _fill(rng.choice(HEROES), topics, rng)[0]
        if base == "deed":
            return _fill(rng.choice(DEEDS), topics, rng)[0]
        if base == "task":
            value = rng.choice(TASKS)
        elif base == "everyday":
            return rng.choice(EVERYDAY)
        elif base == "trouble":
            value = _fill(rng.choice(TROUBLES), topics, rng)[0]
            value = value[0].upper() + value[1:]
        elif base == "pair":
            kind = rng.choice(sorted(topics))
            value = f"{word(kind)} and {word(kind)}"
        elif base == "any":
            value = word(rng.choice(sorted(topics)))
        else:
            value = word(base)
        first = first or value
        return value

    return re.sub(r"\{(\w+)\}", field, text), first


def questions(topics: dict[str, list[list]], count: int, seed: int) -> list[Question]:
    """`count` questions in random order, about in the shares of TEMPLATES."""
    rng = random.Random(seed)
    shares = [share for _, share, _, _, _ in TEMPLATES]
    asked: dict[str, int] = {}
    out: list[Question] = []
    while len(out) < count:
        kind, _, longest, repeats, texts = rng.choices(TEMPLATES, shares)[0]
        text, topic = _fill(rng.choice(texts), topics, rng)
        text = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)
        if asked.get(text, 0) < repeats:
            asked[text] = asked.get(text, 0) + 1
            out.append(Question(kind, topic, text, longest))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with cntlist.rev")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    topics = topics_of(args.wordnet)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(topics))
    for kind, words in topics.items():
        print(f"{kind}: {len(words)} words, {', '.join(word for word, _ in words[:8])}, ...")


if __name__ == "__main__":
    main()
