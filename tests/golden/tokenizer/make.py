#!/usr/bin/env python3
"""Makes the tokenizer goldens: a corpus of strings, small tokenizers and the ids they should give.

The references are the Python packages `tokenizers` and `sentencepiece`; `gguf` reads the SmolLM2
vocabulary. Usage: make.py SMOLLM2.gguf (run in this folder; overwrites its files).

Ids are stored as little-endian u16: for each string its number of ids, then the ids.
"""
import io
import json
import random
import struct
import sys
import unicodedata

import gguf
import sentencepiece as spm
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.", "Octet serves mixtures of experts to everyone.",
    "I'll say it's what they've done; we're sure you'd agree, I'm not.", "WE'LL SEE WHAT THEY'VE SAID",
    "Der Bär fährt über die große Brücke, während es regnet.", "Ça va très bien, merci beaucoup !",
    "El niño comió piñas en la montaña ayer.", "Gdzie jest żółta łódka? Zażółć gęślą jaźń.",
    "Съешь же ещё этих мягких французских булок.", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "敏捷的棕色狐狸跳过了懒狗。", "吾輩は猫である。名前はまだ無い。", "다람쥐 헌 쳇바퀴에 타고파.",
    "نص حكيم له سر قاطع وذو شأن عظيم", "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण", "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "Tiếng Việt có nhiều dấu thanh.", "მხოლოდ ერთი ადამიანი", "Հայերեն լեզու", "አማርኛ ቋንቋ",
    "தமிழ் மொழி மிகவும் பழமையானது", "বাংলা ভাষা", "ភាសាខ្មែរ", "မြန်မာဘာသာ", "བོད་སྐད་", "ᐃᓄᒃᑎᑐᑦ", "ᏣᎳᎩ",
]
CODE = [
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}", "def f(x):\n    return x ** 2  # square\n",
    "<div class=\"a\">&nbsp;</div>", "SELECT * FROM t WHERE id=42 AND name LIKE '%x%';",
    "{\"key\": [1, 2.5, -3e10, null, true]}", "#include <vector>\r\n\r\nint main() { return 0; }\r\n",
    "x = y if z else w; print(f\"{x!r:>10}\")", "/* comment */ // another\n\n\n", "a->b::c.d?.e ?? f",
    "\t\tif (a && b || !c) goto end;", "https://example.org/path?q=1&r=%20#frag", "C:\\Users\\x\\file.txt",
    "0x1F 0b1010 1_000_000 3.14159e-10 1,234,567.89", "snake_case camelCase PascalCase kebab-case",
]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇯🇵", "❤️", "1️⃣", "🧑🏿‍🚀", "☕️", "🫠", "👩🏻‍❤️‍💋‍👨🏾", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"]
SPACES = [" ", "  ", "   ", "        ", "\t", "\n", "\r\n", "\n\n", "\r", "\u00a0", "\u3000", "\u2003", "\u200b",
          "\u0085", "\u180e", "\u2028", "\v", "\f", " \n ", "\n ", " \t", "\u1680", "\ufeff"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<0x0A>", "[X]", "<|im_", "▁", "Ġ"]


def stable_chars():
    """Characters old enough that every Unicode version in use agrees on their properties."""
    old = unicodedata.ucd_3_2_0
    out = []
    for code in range(1, 0x30000):
        c = chr(code)
        if 0xD800 <= code < 0xE000 or old.category(c) in ("Cn", "Co", "Cs"):
            continue
        if old.category(c) == unicodedata.category(c):
            out.append(c)
    return out


def words(rng):
    return " ".join(rng.choice(SENTENCES).split()[:rng.randint(1, 6)])


def corpus():
    rng = random.Random(20240611)
    chars = stable_chars()
    texts = [""] + SENTENCES + CODE + EMOJI + SPACES + SPECIAL
    texts += [chr(i) for i in range(256)] + ["a" + chr(i) + "b" for i in range(128)]
    texts += [str(10 ** i + i) for i in range(20)]
    makers = [
        lambda: words(rng) + rng.choice(SPACES) + words(rng),
        lambda: rng.choice(CODE) + rng.choice(SPACES) + rng.choice(CODE),
        lambda: "".join(rng.choice(EMOJI) + rng.choice(["", " ", "a", "\n"]) for _ in range(rng.randint(1, 5))),
        lambda: "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 8))) + rng.choice(["", "x", "é", "1"]),
        lambda: "".join(rng.choice(chars) for _ in range(rng.randint(1, 12))),
        lambda: "".join(rng.choice(chars) + rng.choice(["", "\u0301", "\u0323", "\u0308"])
                        for _ in range(rng.randint(1, 6))),
        lambda: unicodedata.normalize(rng.choice(["NFD", "NFC"]), words(rng)),
        lambda: "".join(rng.choice("0123456789.,- ²½Ⅷ٣१") for _ in range(rng.randint(1, 14))),
        lambda: "".join(chr(rng.randint(1, 127)) for _ in range(rng.randint(1, 24))),
        lambda: "".join(rng.choice([words(rng), rng.choice(SPECIAL), rng.choice(SPACES), rng.choice(EMOJI)])
                        for _ in range(rng.randint(2, 5))),
        lambda: rng.choice("abcxyz é中") * rng.randint(1, 40),
        lambda: words(rng).upper() + rng.choice(["'S", "'ll", "’s", "!", "...", "?!"]) + words(rng),
    ]
    while len(texts) < 5400:
        texts.append(rng.choice(makers)())
    return texts


def write_ids(name, rows):
    with open(name, "wb") as f:
        for row in rows:
            f.write(struct.pack("<%dH" % (len(row) + 1), len(row), *row))


def golden(name, tok, texts):
    write_ids(name + ".ids", [tok.encode(t, add_special_tokens=False).ids for t in texts])
    tok.encode_special_tokens = True
    write_ids(name + ".plain.ids", [tok.encode(t, add_special_tokens=False).ids for t in texts])
    tok.encode_special_tokens = False


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(pre, texts, vocab, normalizer=None):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre
    tok.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tok.normalizer = normalizer
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tok


def smollm_style(texts):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok = byte_level(pre, texts, 1500)
    tok.save("smollm_style.json", pretty=False)
    golden("smollm_style", tok, texts)


def llama3_style(texts):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok = byte_level(pre, texts, 1500)
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|endoftext|> $A", pair="<|endoftext|> $A $B",
                                      special_tokens=[("<|endoftext|>", 0)])])
    state = json.loads(tok.to_str())
    state["model"]["ignore_merges"] = True
    tok = Tokenizer.from_str(json.dumps(state))
    tok.save("llama3_style.json", pretty=False)
    golden("llama3_style", tok, texts)


def nfc_style(texts):
    """NFC, a prefix space, and added tokens with every flag."""
    tok = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), texts, 700, normalizers.NFC())
    tok.add_tokens([AddedToken("[X]", lstrip=True, rstrip=True, normalized=False),
                    AddedToken("fox", single_word=True, normalized=True),
                    AddedToken("großé", normalized=True)])
    tok.save("nfc_style.json", pretty=False)
    golden("nfc_style", tok, texts)


def sentencepiece_models(texts):
    # Only common characters, so that the rest of the corpus needs byte fallback and the unknown piece.
    known = set("".join(SENTENCES[:12] + CODE))
    lines = [t for t in texts if t.strip() and set(t) <= known]

    def train(name, **options):
        out = io.BytesIO()
        spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, minloglevel=2,
                                       hard_vocab_limit=False, num_threads=1, **options)
        with open(name + ".model", "wb") as f:
            f.write(out.getvalue())
        return spm.SentencePieceProcessor(model_proto=out.getvalue())

    bpe = train("sp_bpe", model_type="bpe", vocab_size=1600, byte_fallback=True, split_digits=True,
                normalization_rule_name="identity", remove_extra_whitespaces=False,
                character_coverage=0.995, allow_whitespace_only_pieces=True,
                user_defined_symbols=["[X]", "▁▁▁"])
    write_ids("sp_bpe.ids", [bpe.encode(t) for t in texts])
    uni = train("sp_unigram", model_type="unigram", vocab_size=1200, normalization_rule_name="nmt_nfkc",
                character_coverage=0.995, user_defined_symbols=["[X]"])
    write_ids("sp_unigram.ids", [uni.encode(t) for t in texts])
    return bpe


def mixtral_style(bpe, texts):
    """A SentencePiece BPE model as a tokenizer.json, the way Mixtral's was converted."""
    pieces = [bpe.id_to_piece(i) for i in range(bpe.get_piece_size())]
    vocab = {p: i for i, p in enumerate(pieces)}
    merges = []
    for i, piece in enumerate(pieces):
        if bpe.is_control(i) or bpe.is_unknown(i) or bpe.is_byte(i):
            continue
        for cut in range(1, len(piece)):
            if piece[:cut] in vocab and piece[cut:] in vocab:
                merges.append((-bpe.get_score(i), vocab[piece[:cut]], vocab[piece[cut:]], cut, piece))
    merges.sort(key=lambda m: m[:3])
    tok = Tokenizer(models.BPE(vocab, [(p[:c], p[c:]) for _, _, _, c, p in merges], unk_token="<unk>",
                               fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tok.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tok.save("mixtral_style.json", pretty=False)
    golden("mixtral_style", tok, texts)


def smollm2(path, texts):
    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields["tokenizer." + key].contents()
    tokens, merges = get("ggml.tokens"), [tuple(m.split(" ")) for m in get("ggml.merges")]
    special = [t for t, kind in zip(tokens, get("ggml.token_type")) if kind == 3]
    ids = {t: i for i, t in enumerate(tokens)}
    tok = Tokenizer(models.BPE(ids, merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(special)
    golden("smollm2", tok, texts)
    ours = {
        "octet_tokenizer": 1, "kind": "bpe", "byte_level": True,
        "settings": {"bos_id": get("ggml.bos_token_id"), "eos_ids": [get("ggml.eos_token_id")],
                     "add_bos": False, "chat_template": get("chat_template")},
        "tokens": tokens, "merges": [ids[part] for merge in merges for part in merge],
        "added_tokens": [{"id": ids[t], "content": t, "special": True} for t in special],
        "pre_tokenizer": json.loads(tok.to_str())["pre_tokenizer"],
    }
    with open("smollm2.json", "w", encoding="utf-8") as f:
        json.dump(ours, f, ensure_ascii=False, separators=(",", ":"))


def main():
    texts = corpus()
    with open("corpus.json", "w", encoding="utf-8") as f:
        json.dump(texts, f, ensure_ascii=False, separators=(",", ":"))
    smollm_style(texts)
    llama3_style(texts)
    nfc_style(texts)
    mixtral_style(sentencepiece_models(texts), texts)
    smollm2(sys.argv[1], texts)
    print(len(texts), "strings")


if __name__ == "__main__":
    main()
