"""Makes the training text: clean English prose out of unpacked Debian packages.

    corpus.py TEXT_DIR OUT_DIR [PACKAGE...]

TEXT_DIR has one folder per package (corpus.sh makes it); all of them are read, or those named.
OUT_DIR receives corpus-train.jsonl and corpus-heldout.jsonl, a document a line as {"source", "id",
"text"}, and corpus-sizes.json. The same packages give the same bytes. CORPUS.md says what is kept
and what is left out.
"""

import bz2
import gzip
import hashlib
import html
import json
import multiprocessing
import os
import re
import sys
import unicodedata
import zlib

# A document is a list of blocks, each a pair of its kind and its text.
HEADING, PARAGRAPH = "h", "p"

MAX_FILE_BYTES = 48 << 20
# A book in one file is cut into documents of about this many characters, at headings if it can.
SECTION_CHARS = 24_000
MIN_DOCUMENT_CHARS = 200
# No source may be more than this share of the training text.
MAX_SHARE = 0.20
# Word lists made into sentences all sound alike: less of those.
MAX_BYTES = {"wordnet-base": 6_000_000, "dict-gcide": 14_000_000}
HELDOUT_ONE_IN = 10

# ---- Text -------------------------------------------------------------------------------------

_PLAIN = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'",
    "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"', "\u2033": '"',
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2015": "\u2014",
    "\u2026": "...", "\u2022": " ", "\u00b6": "", "\u00ad": "", "\u200b": "", "\ufeff": "",
    "\u200e": "", "\u200f": "", "\u2028": "\n", "\u2029": "\n", "\ufffd": "", "\u2060": "",
})
_SPACE = re.compile(r"\s+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]")
_TEX_QUOTE = re.compile(r"``([^`'\n]{1,200})''|`([^`'\n]{1,80})'")


def normalise(text):
    """One line of text in NFC with plain quotes and single spaces."""
    text = unicodedata.normalize("NFC", text.translate(_PLAIN))
    return _SPACE.sub(" ", _CONTROL.sub("", text)).strip()


_STOP = frozenset(
    "a about after all also an and any are as at be because been before but by can could did do "
    "does for from had has have he her here him his how i if in into is it its like may me more "
    "most must my no not now of on one only or other our out over she should so some such than "
    "that the their them then there these they this those to two up upon us use used using was we "
    "were what when where which who will with would you your thou thy thee ye unto shall".split())
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
_LICENCE = re.compile(
    r"without warranty|warranties of|merchantability|redistribut|all rights reserved|"
    r"permission is (hereby )?granted|free documentation license|general public license|"
    r"creative commons|licensed under|invariant sections|copyright (\(c\)|\u00a9|\d{4})|"
    r"\u00a9 ?\d{4}|generated (by|on|from)\b|this page was last|javascript|last (updated|modified)|"
    r"table of contents|cookies|click here to|bug report(s)? (to|at)|built with sphinx",
    re.IGNORECASE)
_ODD = re.compile(r"[{}<>=_|\\;@#$%^*~\[\]/+]")
_END = re.compile(r"[.!?:;][\"')\]]*$")


def is_prose(text):
    """Whether a normalised paragraph is English sentences rather than code, a table or a list."""
    words = _WORD.findall(text)
    if len(words) < 4 or not _END.search(text) or text.startswith("-- "):
        return False
    size = len(text)
    letters = sum(map(len, words))
    if letters < 0.68 * size or letters > 9 * len(words):
        return False
    if len(_ODD.findall(text)) > 0.035 * size + 1:
        return False
    if sum(c > "\u024f" for c in text) > 0.02 * size:
        return False
    common = sum(word.lower() in _STOP for word in words)
    if common < (0.12 if len(words) < 9 else 0.22) * len(words):
        return False
    return not (size < 600 and _LICENCE.search(text))


_NUMBERED = re.compile(r"^(chapter |appendix |section )?[\dA-Z]{0,2}\d*(\.\d+)*[.:)]?\s+(?=[A-Z])",
                       re.IGNORECASE)
_DROPPED_SECTION = re.compile(
    r"^(see also|synopsis|copyright.*|copying|license|licence|colophon|reporting bugs|attributes|"
    r"authors?|name|index|references|bibliography|contents|table of contents|legal.*|navigation|"
    r"changelog|change log|revision history|resources|further reading|gnu free.*|gnu general.*|"
    r"acknowledge?ments|files|conforming to|standards|versions|history|trademarks)$",
    re.IGNORECASE)


def prose(blocks):
    """The blocks worth keeping, normalised: prose, and the headings that have prose after them."""
    kept, heading, dropping = [], None, False
    for kind, text in blocks:
        text = normalise(text)
        if not text:
            continue
        if kind == HEADING:
            text = _NUMBERED.sub("", text).strip()
            dropping = bool(_DROPPED_SECTION.match(text))
            words = _WORD.findall(text)
            named = 0 < len(words) < 16 and sum(map(len, words)) > 0.7 * len(text)
            heading = text if named else None
        elif not dropping and is_prose(text):
            if heading:
                kept.append((HEADING, heading))
                heading = None
            kept.append((PARAGRAPH, text))
    return kept


def sections(blocks):
    """Cuts a long document: at a heading once half full, anywhere once full."""
    part, size = [], 0
    for block in blocks:
        full = size > SECTION_CHARS or (block[0] == HEADING and size > SECTION_CHARS // 2)
        if full:
            yield part
            part, size = [], 0
        part.append(block)
        size += len(block[1])
    if part:
        yield part


# ---- HTML and XML ------------------------------------------------------------------------------

_MARKUP = re.compile(r"<(/?)([a-zA-Z][\w:.-]*)((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)>")
_NOISE = re.compile(r"<!--.*?-->|<!\[CDATA\[|\]\]>|<!DOCTYPE[^>\[]*(\[.*?\]\s*)?>|<\?.*?\?>|"
                    r"<(script|style)\b.*?</\2\s*>", re.DOTALL | re.IGNORECASE)
_SKIPPED_TAGS = frozenset(
    "head pre nav header footer form select button svg math textarea sup "
    "programlisting screen synopsis literallayout bookinfo articleinfo info indexterm legalnotice "
    "code-block equation informalequation cmdsynopsis funcsynopsis refsynopsisdiv "
    "refentryinfo refmeta refnamediv revhistory screenshot mediaobject media toc comment".split())
_SKIPPED_CLASS = re.compile(
    r"""(?:class|id|role)\s*=\s*["']?[^"'>]*(?<![\w-])(?:sphinxsidebar|related|navheader|"""
    r"""navfooter|toc|footer|breadcrumbs?|navigation|nav|highlight|programlisting|screen|menu|"""
    r"""literallayout|literal-block|headerlink|contents|SCodeFlow|SVerbatim|tocset|navset\w*|"""
    r"""versionmodified|sig|sig-object|SIntrapara|RktBlk|indextable|footnotes?|synopsis|"""
    r"""item-decl|docblock-short|admonition-todo|prev-next|header|maincolumn-nav)"""
    r"""(?![\w-])""",
    re.IGNORECASE)
_BLOCK_TAGS = frozenset(
    "p div li dd dt td th tr table ul ol dl br hr blockquote body section article center h1 h2 h3 "
    "h4 h5 h6 title para simpara formalpara item listitem entry term caption summary desc note "
    "figcaption refpurpose subtitle bridgehead steps step varlistentry page helpdocument sect1 "
    "sect2 sect3 chapter menuchoice answer question cell paragraph details main aside".split())
_HEADING_TAGS = frozenset("h1 h2 h3 h4 h5 h6 title bridgehead".split())
_VOID = frozenset("br hr img input link meta col area base".split())
_ENTITY = re.compile(r"&([A-Za-z][\w.-]*);")


def _entity(match):
    known = html.unescape(match.group(0))
    if known != match.group(0):
        return known
    name = match.group(1)  # DocBook names its programs with entities of its own: &kstars;
    return name[:1].upper() + name[1:]


def markup_blocks(text):
    """The blocks of an HTML, DocBook, Mallard or other XML page."""
    text = _NOISE.sub(" ", text)
    blocks, run, heading = [], [], False
    skipped, depth, position = None, 0, 0

    def flush():
        if run:
            joined = _ENTITY.sub(_entity, "".join(run))
            blocks.append((HEADING if heading else PARAGRAPH, html.unescape(joined)))
            run.clear()

    for match in _MARKUP.finditer(text):
        closing, tag, attributes = match.group(1), match.group(2).lower(), match.group(3)
        if skipped is None and match.start() > position:
            run.append(text[position:match.start()])
        position = match.end()
        empty = attributes.endswith("/") or tag in _VOID
        if skipped is not None:
            if tag == skipped and not empty:
                depth += -1 if closing else 1
                if depth == 0:
                    skipped = None
            continue
        if not closing and not empty and tag not in ("body", "html", "main", "article", "p", "h1"):
            if tag in _SKIPPED_TAGS or (attributes and _SKIPPED_CLASS.search(attributes)):
                if tag not in ("a", "span", "sup"):
                    flush()
                skipped, depth = tag, 1
                continue
        if tag in _BLOCK_TAGS:
            flush()
            heading = tag in _HEADING_TAGS and not closing
        elif tag.startswith("gui") and not closing:
            run.append(" ")
    if skipped is None:
        run.append(text[position:])
    flush()
    return blocks


# ---- Manual pages, POD, Info, plain text -------------------------------------------------------

_ROFF_CHARS = {"aq": "'", "bu": "", "em": "\u2014", "en": "-", "lq": '"', "rq": '"', "oq": "'",
               "cq": "'", "dq": '"', "hy": "-", "mi": "-", "co": "(c)", "ha": "^", "ti": "~",
               "rs": "\\", "Fo": '"', "Fc": '"', "ga": "`", "mu": "x", "->": "->"}
_ROFF_ESCAPE = re.compile(
    r"\\f(?:\[[^\]]*\]|\(..|.)|\\s[+-]?\d+|\\\((..)|\\\[([^\]]*)\]|\\\*\((..)|\\\*(.)|"
    r"\\[hvwkmMNC]'[^']*'|\\\"[^\n]*|\\([&|^/,)%:c!dur{}])|\\([-.' ~e0`])")


def _roff_text(line):
    def one(match):
        name = match.group(1) or match.group(2) or match.group(3)
        if name is not None:
            return _ROFF_CHARS.get(name, "")
        if match.group(6) is not None:
            return {"e": "\\", "~": " ", "0": " "}.get(match.group(6), match.group(6))
        return ""
    return _ROFF_ESCAPE.sub(one, line)


_ROFF_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')


def _roff_arguments(rest):
    return [a.replace('""', '"') if a else b for a, b in _ROFF_ARGUMENT.findall(rest)]


def roff_blocks(text):
    """The blocks of a man page in the man macros. Pages in mdoc are left out: few, and harder."""
    if re.search(r"^\.Dd", text, re.MULTILINE):
        return []
    blocks, run, unfilled, tagged = [], [], None, False
    ends = {"nf": "fi", "EX": "EE", "TS": "TE", "de": ".", "ig": ".", "EQ": "EN", "SY": "YS"}

    def flush():
        if run:
            blocks.append((PARAGRAPH, " ".join(run)))
            run.clear()

    for line in text.split("\n"):
        macro = re.match(r"[.']\s*([A-Za-z.\\\"]+)\s*(.*)", line)
        name = macro.group(1) if macro else None
        if unfilled:
            if name == unfilled or (unfilled == "." and line.startswith("..")):
                unfilled = None
        elif name in ends:
            flush()
            unfilled = ends[name]
        elif name in ("SH", "SS"):
            flush()
            title = _roff_text(" ".join(_roff_arguments(macro.group(2))))
            blocks.append((HEADING, title.capitalize() if title.isupper() else title))
        elif name in ("PP", "P", "LP", "IP", "HP", "TP", "RS", "RE", "sp", "TQ", "br"):
            flush()
            tagged = name == "TP"
            continue
        elif name in ("B", "I", "SM", "SB"):
            run.append(_roff_text(" ".join(_roff_arguments(macro.group(2)))))
        elif name in ("BR", "RB", "BI", "IB", "IR", "RI"):
            run.append(_roff_text("".join(_roff_arguments(macro.group(2)))))
        elif not macro and line.strip():
            run.append(_roff_text(line))
        if tagged:
            flush()  # the tag of a .TP item is no part of the sentence after it
            tagged = False
    flush()
    return blocks


_POD_CODE = re.compile(r"\b([BCFILSXZE])(?:<<+\s+((?:(?!<<).)*?)\s+>>+|<([^<>]*)>)", re.DOTALL)
_POD_ESCAPES = {"gt": ">", "lt": "<", "verbar": "|", "sol": "/"}


def _pod_text(text):
    def one(match):
        letter, inner = match.group(1), match.group(2) or match.group(3) or ""
        if letter in "XZ":
            return ""
        if letter == "E":
            return _POD_ESCAPES.get(inner, html.unescape("&" + inner + ";"))
        if letter == "L":
            inner = inner.split("|")[0].replace('"', "")
            return re.sub(r"^/|(?<=\w)/$", "", inner)
        return inner
    for _ in range(4):
        text, changed = _POD_CODE.subn(one, text)
        if not changed:
            break
    return text


def pod_blocks(text):
    """The blocks of Perl's documentation format."""
    blocks, on = [], False
    for part in re.split(r"\n\s*\n", text):
        part = part.lstrip("\n")
        if part.startswith("="):
            command, _, rest = part.partition(" ")
            on = command != "=cut" and command != "=begin"
            if command.startswith("=head"):
                title = _pod_text(rest)
                title = title.capitalize() if title.isupper() else title
                blocks.append((HEADING, title))
            elif command == "=item":
                blocks.append((PARAGRAPH, _pod_text(rest)))
        elif on and part and not part[0].isspace():
            blocks.append((PARAGRAPH, _pod_text(part)))
    return blocks


_HEADING_RULE = re.compile(r"^[=\-~*^\"#`+.:_]{3,}\s*$")
_RST_ROLE = re.compile(r":[a-z:+-]+:`(?:([^`<]+?)\s*<[^`>]*>|~?([^`]+))`")
_RST_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?|`([^`\n]+)`__?|``([^`]+)``|\*\*([^*\n]+)\*\*|"
                       r"\|([^|\n]+)\|_?|(?<!\w)\*([^*\n]+)\*(?!\w)|(?<=\w)::(?=\s|$)")
_VIM = re.compile(r"\|([^\s|]+)\||\*[^\s*]+\*|\{([^\s{}]+)\}|(?<=\s)>$")


def _rst_text(text):
    text = _RST_ROLE.sub(lambda m: m.group(1) or m.group(2), text)
    return _RST_LINK.sub(lambda m: next((g for g in m.groups() if g), ":"), text)


def plain_blocks(text, style=""):
    """The blocks of plain text: paragraphs at blank lines, indented code left out."""
    blocks = []
    for part in re.split(r"\n[ \t]*\n", text.replace("\r", "").expandtabs(8)):
        lines = [line for line in part.split("\n") if line.strip()]
        if not lines or lines[0].lstrip().startswith(".. "):
            continue
        if len(lines) > 1 and _HEADING_RULE.match(lines[0]):
            lines = lines[1:]
        if len(lines) > 1 and _HEADING_RULE.match(lines[1].strip()):
            blocks.append((HEADING, lines[0]))
            lines = lines[2:]
        if lines and lines[0].startswith("#") and style == "md":
            blocks.append((HEADING, lines[0].strip("# ")))
            lines = lines[1:]
        if not lines or lines[0].startswith(("::", "```", "+--", "|")):
            continue
        # Several runs of spaces inside lines mean columns.
        if sum("   " in line.strip() for line in lines) * 2 > len(lines):
            continue
        for item in _items(lines):
            item = _rst_text(item) if style in ("rst", "md") else item
            item = _VIM.sub(lambda m: m.group(1) or m.group(2) or "", item) \
                if style == "vim" else item
            item = _TEX_QUOTE.sub(lambda m: '"' + (m.group(1) or m.group(2)) + '"', item)
            blocks.append((PARAGRAPH, item))
    return blocks


_BULLET = re.compile(r"^\s*(?:[-*+o]|\(?\d{1,2}[.)]|\([a-z]\))\s+")


def _items(lines):
    """Splits a paragraph at list bullets and joins the lines of each part."""
    item = []
    for line in lines:
        if _BULLET.match(line):
            if item:
                yield _join(item)
            item = [_BULLET.sub("", line)]
        else:
            item.append(line)
    if item:
        yield _join(item)


def _join(lines):
    text = " ".join(line.strip() for line in lines)
    return re.sub(r"(?<=[a-z])- (?=[a-z])", "-", text)


def info_blocks(text):
    """The blocks of an Info file, nodes in order, without menus and indented examples."""
    blocks = []
    for node in text.split("\x1f")[1:]:
        if not node.lstrip().startswith("File:"):
            continue
        body = node.lstrip().partition("\n")[2].split("\n* Menu:")[0]
        body = re.sub(r"\*[Nn]ote\s+(?:[^:]*::|([^:]*):\s*[^.,]*)", r"\1", body)
        body = re.sub(r"(?m)^ {8,}.*$", "", body)
        blocks += plain_blocks(body)
    return blocks


def reader_of(path):
    """The reader for a file name, or None where no prose is expected."""
    name = path[:-3] if path.endswith(".gz") else path
    if re.search(r"\.(x?html?|page|docbook|xml|xhp|en\.utf8)$", name):
        return markup_blocks
    if re.search(r"/man/man\d/[^/]*\.\w+$", name):
        return roff_blocks
    if name.endswith(".pod"):
        return pod_blocks
    if re.search(r"/info/.*\.info(-\d+)?$", name):
        return info_blocks
    if name.endswith((".rst", ".rst.txt")):
        return lambda text: plain_blocks(text, "rst")
    if name.endswith(".md"):
        return lambda text: plain_blocks(text, "md")
    if "/vim90/doc/" in name:
        return lambda text: plain_blocks(text, "vim")
    if name.endswith(".txt"):
        return plain_blocks
    return None


# ---- Single sources: dictionaries, novels, games -----------------------------------------------
# Each reader yields the blocks of one document after the other.


def _grouped(entries, size=4000):
    """Puts short entries together into documents of about `size` characters."""
    part, total = [], 0
    for entry in entries:
        part += entry
        total += sum(len(text) for _, text in entry)
        if total >= size:
            yield part
            part, total = [], 0
    if part:
        yield part


def _dict_entries(folder, name):
    """The entries of a dictionary in dictd's format, in file order."""
    digits = {c: i for i, c in enumerate(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}

    def number(text):
        value = 0
        for character in text:
            value = value * 64 + digits[character]
        return value
    base = os.path.join(folder, "usr/share/dictd", name)
    with gzip.open(base + ".dict.dz") as file:
        data = file.read()
    with open(base + ".index", encoding="utf-8", errors="replace") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    spans = sorted({(number(row[1]), number(row[2])) for row in rows
                    if not row[0].startswith("00")})
    for start, size in spans:
        yield data[start:start + size].decode("utf-8", "replace")


_GCIDE_HEAD = re.compile(r"^(\S.*?)\s*\\[^\\]*\\,?\s*(?:\([^)]*\)\s*)?,?\s*([a-z. &]*\.)?")
_GCIDE_TAG = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]")
_PARTS = {"n.": "noun", "a.": "adjective", "adj.": "adjective", "adv.": "adverb", "v. t.": "verb",
          "v. i.": "verb", "v.": "verb", "prep.": "preposition", "conj.": "conjunction"}


def gcide(folder):
    def entries():
        for text in _dict_entries(folder, "gcide"):
            head = _GCIDE_HEAD.match(text)
            if not head:
                continue
            kind = _PARTS.get((head.group(2) or "").strip())
            if not kind or "Obs." in text[:400]:
                continue
            body = _GCIDE_TAG.sub("", text[head.end():])
            body = re.sub(r"[{}_]|\(Fig\. [^)]*\)|\bSee\s+\S+\.$|\([A-Z][\w. &]*\.\) ?", "", body)
            out = []
            for part in re.split(r"\n\s*\n|\n\s{2,4}(?=\d+\. )|\n\s*(?=\([a-z]\) )", body):
                part = normalise(part)
                author = re.search(r"\s*--\s*([A-Z][\w.' ]+)\.?$", part)
                if author:
                    part = f"{part[:author.start()]} ({author.group(1).strip('. ')})."
                part = re.sub(r"^(\d+\.|\([a-z]\)|Note:|\W+)\s*", "", part)
                if not part or part.startswith("Syn:") or re.search(r"\b(imp|p\. p|pl)\.", part):
                    continue
                if not out:
                    part = f"{head.group(1)} ({kind}): {part}"
                out.append(part if _END.search(part) else part + ".")
            if out:
                yield [(PARAGRAPH, " ".join(out[:6]))]
    return _grouped(entries())


def foldoc(folder):
    def entries():
        for text in _dict_entries(folder, "foldoc"):
            head, _, body = text.partition("\n\n")
            body = re.sub(r"<[a-z, ]+>|[{}]", "", body)
            blocks = plain_blocks(body)
            kept = [b for b in blocks if not re.match(r"\s*[\[(]", b[1])]
            yield [(HEADING, head.split("\n")[0])] + kept
    return _grouped(entries())


def devil(folder):
    entries = list(_dict_entries(folder, "devil"))
    return _grouped(plain_blocks(re.sub(r"(?m)^ {4,}.*$|_", "", text)) for text in entries)


def jargon(folder):
    text = _read(os.path.join(folder, "usr/share/doc/jargon-text/jargon.txt.gz"))

    def entries():
        for entry in re.split(r"\n   (?=:[^:\n]+: )", text)[1:]:
            head = re.match(r":([^:]+):([^\n]*)\n", entry)
            body = re.sub(r"[{}]|\[[a-z; A-Z:]*\]", "", entry[head.end():] if head else entry)
            yield ([(HEADING, head.group(1))] if head else []) + plain_blocks(body)
    return _grouped(entries())


_WORDNET_FORMS = {
    "n": ["The noun {w} means {g}.", "{W}: {g}.", "One meaning of {w} is {g}."],
    "v": ["The verb {w} means to {g}.", "To {b} is to {g}.", "{W} (verb): to {g}."],
    "a": ["Something {b} is {g}.", "The adjective {w} means {g}.", "{W} (adjective): {g}."],
    "s": ["The adjective {w} means {g}.", "{W} (adjective): {g}.", "{W} means {g}."],
    "r": ["The adverb {w} means {g}.", "{W} (adverb): {g}."]}


def wordnet(folder):
    """A sentence or two for each sense that has an example: the gloss, then the examples."""
    def entries():
        for name in ("noun", "verb", "adj", "adv"):
            data = _read(os.path.join(folder, "usr/share/wordnet/data." + name))
            for line in data.split("\n"):
                fields, _, gloss = line.partition(" | ")
                if not gloss or line.startswith("  "):
                    continue
                fields = fields.split(" ")
                word = re.sub(r"\([a-z]+\)$", "", fields[4]).replace("_", " ")
                examples = re.findall(r'"([^"]+)"', gloss)
                meaning = gloss.split('"')[0].strip(" ;:")
                if len(examples) == 0 or not meaning or len(meaning) < 12:
                    continue
                forms = _WORDNET_FORMS[fields[2]]
                form = forms[int(fields[0]) % len(forms)]
                text = form.format(w=f'"{word}"', b=word, g=meaning.split(";")[0].strip(),
                                   W=word[:1].upper() + word[1:])
                for example in examples[:2]:
                    example = example[:1].upper() + example[1:]
                    text += f" {example}" + ("" if _END.search(example) else ".")
                yield [(PARAGRAPH, text)]
    return _grouped(entries())


def fortunes(folder):
    """Sayings, a few to a document; the folder of those that may offend is left out."""
    for path in sorted(_files(folder)):
        if "/games/fortunes/" not in path or path.endswith((".dat", ".u8")) or "/off/" in path:
            continue
        sayings = _read(path).split("\n%\n")
        yield from _grouped(([(PARAGRAPH, "\n".join(line.strip() for line in saying.split("\n")))]
                             for saying in sayings))


def austen(folder):
    """The novels: character vectors in an R data base, a line of text each."""
    base = os.path.join(folder, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    with open(base, "rb") as file:
        data = file.read()
    while data:
        inflate = zlib.decompressobj()
        novel = inflate.decompress(data[4:])
        data = inflate.unused_data
        lines = []
        for match in re.finditer(rb"\x00\x04\x00\x09(....)", novel, re.DOTALL):
            size = int.from_bytes(match.group(1), "big")
            lines.append(novel[match.end():match.end() + size].decode("utf-8", "replace"))
        for chapter in re.split(r"\n(?=(?:CHAPTER|Chapter) )", "\n".join(lines)):
            text = re.sub(r"(?m)^(CHAPTER|Chapter) .*$|_", "", chapter)
            yield [(PARAGRAPH, part) for part in re.split(r"\n\s*\n", text)]


def unlzw(data, most=16):
    """Unpacks the codes of compress(1), without the three bytes before them."""
    table, out, last = [bytes([i]) for i in range(256)] + [b""], [], b""
    bits, position, base, end = 9, 0, 0, len(data) * 8
    while position + bits <= end:
        byte = position >> 3
        window = int.from_bytes(data[byte:byte + 4], "little")
        code = (window >> (position & 7)) & ((1 << bits) - 1)
        position += bits
        clear = code == 256
        if clear:
            del table[257:]
            last = b""
        else:
            entry = table[code] if code < len(table) else last + last[:1]
            out.append(entry)
            if last and len(table) < (1 << most):
                table.append(last + entry[:1])
            last = entry
        if clear or (len(table) >= (1 << bits) and bits < most):
            # The writer fills a group of eight codes before it changes their width.
            position = base + -(-(position - base) // (bits * 8)) * bits * 8
            base, bits = position, 9 if clear else bits + 1
    return b"".join(out)


def bible(folder):
    """The King James version: windows of packed text behind a table of where they start."""
    with open(os.path.join(folder, "usr/lib/bible.data"), "rb") as file:
        data = file.read()
    count = int.from_bytes(data[0x58:0x5c], "big")
    starts = [int.from_bytes(data[i:i + 4], "big") for i in range(0x5c, 0x5c + 4 * count, 4)]
    text = b"".join(unlzw(data[a:b]) for a, b in zip(starts, starts[1:] + [len(data)]))
    chapters = {}
    for book, chapter, verse in re.findall(r"(?m)^(\d?[A-Z][A-Za-z]+)(\d+):\d+ (.*)$",
                                           text.decode("latin-1")):
        chapters.setdefault((book, chapter), []).append(verse)
    for verses in chapters.values():
        # Four verses make a paragraph, so that most of them end with a full stop.
        yield [(PARAGRAPH, " ".join(verses[i:i + 4])) for i in range(0, len(verses), 4)]


_CFG_TEXT = re.compile(
    r"^\s*(speaker|message|story|description|text|details|summary|note|title|name)\s*=\s*"
    r"(?:(_)\s*)?(\"(?:[^\"]|\"\")*\"(?:\s*\+\s*_?\s*\"(?:[^\"]|\"\")*\")*|[^\n\"]*)", re.MULTILINE)
_NOBODY = frozenset("narrator unit second_unit".split())


def wesnoth(folder):
    """The stories and dialogues of campaigns and the descriptions of units."""
    for path in sorted(_files(folder)):
        if not path.endswith(".cfg") or re.search(r"/(test|core/(editor|terrain)|ai)", path):
            continue
        blocks, speaker = [], ""
        for key, translated, value in _CFG_TEXT.findall(_read(path)):
            if key == "speaker":
                speaker = value.strip()
                continue
            if not translated:
                continue
            value = "".join(re.findall(r'"((?:[^"]|"")*)"', value)).replace('""', '"')
            value = re.sub(r"<[^<>]*>|\$\w+[.|]*", "", value)
            if key in ("name", "title"):
                blocks.append((HEADING, value))
            for part in value.split("\n") if key not in ("name", "title") else ():
                said = key == "message" and speaker and speaker not in _NOBODY
                said = said and not speaker.startswith("$")
                blocks.append((PARAGRAPH, f'{speaker}: "{part.strip()}"' if said else part))
            speaker = ""
        yield blocks


def endless_sky(folder):
    """Conversations and descriptions: a file is cut into its missions, planets and ships."""
    for path in sorted(_files(folder)):
        if "/data/" not in path or not path.endswith(".txt"):
            continue
        def entries(text):
            for part in re.split(r"\n(?=\w)", text):
                blocks = []
                for tick, quoted in re.findall(r"`([^`\n]+)`|\t\"([^\"\n]{40,})\"", part):
                    said = re.sub(r"<(?:first|last)>", "Captain", tick or quoted)
                    said = re.sub(r"<(\w+)>", r"the \1", said)
                    blocks.append((PARAGRAPH, said))
                yield blocks
        yield from _grouped(entries(_read(path)))


def crawl(folder):
    """Descriptions of monsters, gods and places, and the things they say."""
    for path in sorted(_files(folder)):
        if not re.search(r"/dat/(descript|database)/[^/]+\.txt$", path):
            continue
        entries = []
        for entry in _read(path).split("%%%%"):
            text = re.sub(r"(?m)^#.*$", "", entry).strip()
            head, _, body = text.partition("\n")
            body = re.sub(r"@[Tt]he_(\w+)@", r"the \1", body)
            body = re.sub(r"<[^>]*>|@\w+@|\{\{.*?\}\}|w:\d+", "", body, flags=re.DOTALL)
            blocks = [(PARAGRAPH, p) for p in re.split(r"\n\s*\n", body)]
            if "/descript/" in path and not head.startswith("_"):
                blocks = [(HEADING, head)] + blocks
            entries.append(blocks)
        yield from _grouped(entries)


def _quoted(pattern, unescape=True):
    """A reader of the translatable strings in a game's files whose path fits the pattern."""
    string = re.compile(r"_\(\s*((?:\"(?:[^\"\\]|\\.|\\\n)*\"\s*)+)\)|"
                        r"_\(\[\[(.*?)\]\]|_\s*\[\[(.*?)\]\]|p\([_ ]*\"((?:[^\"\\]|\\.)*)\"",
                        re.DOTALL)
    piece = re.compile(r'"((?:[^"\\]|\\.|\\\n)*)"')

    def read(folder):
        for path in sorted(_files(folder)):
            if not re.search(pattern, path):
                continue
            def entries(text):
                for groups in string.findall(text):
                    value = "".join(piece.findall(groups[0])) or next(filter(None, groups), "")
                    if unescape:
                        value = value.replace("\\\n", "").replace("\\n", "\n").replace('\\"', '"')
                    value = re.sub(r"\n\s*\n|\n(?=\s*[-*0-9])", "\n\n", value)
                    yield [(PARAGRAPH, part) for part in value.split("\n\n")]
            yield from _grouped(entries(_read(path)))
    return read


def colobot(folder):
    """Help pages with a markup of backslashes, such as \\l;text\\u target; for a link."""
    for path in sorted(_files(folder)):
        if not re.search(r"/help/E/|\.E\.txt$", path):
            continue
        text = re.sub(r"(?m)^\\(?:image|c;|s;|tab).*$", "", _read(path))
        text = re.sub(r"\\(?:u|key|const|norm|button)\s[^;]*;|\\[a-z]+;", "", text)
        yield [(PARAGRAPH, line) for line in text.split("\n")]


def freedroid(folder):
    """Conversations: the player is Tux, the others are called as their files are."""
    said = re.compile(r"(Npc|Tux):says(?:_random)?\(\s*_\"((?:[^\"\\]|\\.)*)\"|"
                      r"\btext\s*=\s*_\"((?:[^\"\\]|\\.)*)\"")
    for path in sorted(_files(folder)):
        if "/dialogs/" not in path or not path.endswith(".lua"):
            continue
        name, lines = os.path.basename(path)[:-4].replace("-", " ").replace("_", " "), []
        for who, words, option in said.findall(_read(path)):
            who = name if who == "Npc" else "Tux"
            words = (words or option).replace('\\"', '"').replace("%s", "Linarian")
            if lines and lines[-1][0] == who:
                lines[-1][1].append(words)
            else:
                lines.append((who, [words]))
        yield [(PARAGRAPH, f'{who}: "{" ".join(words)}"') for who, words in lines]


def fillets(folder):
    """What two fish say to each other while they push furniture about."""
    for path in sorted(_files(folder)):
        if path.endswith("/dialogs_en.lua"):
            said = re.compile(r'dialogId\("[^"]*",\s*"font_(\w+)",\s*"((?:[^"\\]|\\.)*)"')
            blocks = [f'{who.capitalize()}: "{words}"' for who, words in said.findall(_read(path))]
            yield [(PARAGRAPH, text.replace('\\"', "'")) for text in blocks]


def crossfire(folder):
    """What signs, books and people on the maps say."""
    def entries():
        for path in sorted(_files(folder)):
            if "/maps/" not in path:
                continue
            for text in re.findall(r"(?s)\nmsg\n(.*?)\nendmsg", _read(path)):
                text = re.sub(r"(?m)^@.*$|\[/?\w+[^\]]*\]|<[^>]*>", "", text)
                yield [(PARAGRAPH, part) for part in re.split(r"\n\s*\n", text)]
    return _grouped(entries())


def naev(folder):
    """Conversations of missions, and what there is to see on planets and stations."""
    yield from _quoted(r"\.lua$", False)(folder)

    def entries():
        for path in sorted(_files(folder)):
            if path.endswith(".xml"):
                for text in re.findall(r"(?s)<(?:description|bar)>(.*?)</", _read(path)):
                    yield [(PARAGRAPH, html.unescape(part)) for part in text.split("\n\n")]
    yield from _grouped(entries())


def freeorion(folder):
    """The entries of the game's own encyclopedia."""
    path = os.path.join(folder, "usr/share/games/freeorion/default/stringtables/en.txt")

    def entries():
        for text in re.findall(r"(?s)'''(.*?)'''", _read(path)):
            text = re.sub(r"\[\[[^\]]*\]\]|<[^>]*>", " ", text)
            yield [(PARAGRAPH, part) for part in text.split("\n")]
    return _grouped(entries())


SINGLE = {
    "freedroidrpg-data": freedroid, "crossfire-maps": crossfire, "freeorion-data": freeorion,
    "widelands-data": _quoted(r"\.lua$"), "naev-data": naev,
    "fillets-ng-data": fillets,
    "dict-gcide": gcide, "dict-foldoc": foldoc, "dict-devil": devil, "jargon-text": jargon,
    "wordnet-base": wordnet, "fortunes": fortunes, "fortune-anarchism": fortunes,
    "r-cran-janeaustenr": austen, "bible-kjv-text": bible, "endless-sky-data": endless_sky,
    "crawl-common": crawl, "colobot-common": colobot,
    "freeciv-data": _quoted(r"\.(txt|ruleset)$"),
}


# ---- From packages to documents ----------------------------------------------------------------

_SKIPPED_PATH = re.compile(
    r"(?i)changelog|copyright|/(news|todo|authors|thanks|install|readme)\b|licen[cs]e|gpl|fdl|"
    r"genindex|-?index-?[a-z_]*\.html|search\.html|modindex|release|relnotes|/_modules/|"
    r"/translations/|/_sources/|/generated/|/autosummary/|/source/|/src/|/examples?/|legal|"
    r"/html/std/|/html/alloc/|/html/proc_macro/|/html/test/|/core_arch/|/bindings/|/ABI/|"
    r"ghc-doc/html/libraries/|erlang-doc/lib/[^/]*/doc/html/(?!.*(guide|_ug|chapter|users))|"
    r"linux-doc-6\.1/Documentation/|/auto_examples/|/lists/|contribut|/dev/|doxygen|/c3ref/|"
    r"/reference/generated/|thanks|bibliography|glossary-idx|/doc-base/|perldelta|perl5\d+delta|"
    r"/markdown/|perl\w*(jp|ko|cn|tw)\.pod|perlhist|/apis?/|rt5.*/(RT|lib)/|/javadoc/|big-page|"
    r"print\.html|lilypond/html/.*/(internals|snippets)/|userspace-api/media/|gpu/amdgpu|"
    r"html/AMDGPU|/c-api/|sympy-doc/html/modules/")
# In these packages only some books are prose.
_ONLY = {
    "rust-doc": re.compile(r"/html/(book|cargo|reference|nomicon|edition-guide|rustdoc|rustc|"
                           r"rust-by-example|embedded-book|unstable-book|style-guide)/"),
    "perl-doc": re.compile(r"/pod/"),
    "python3.11-doc": re.compile(r"/html/"),
    "racket-doc": re.compile(r"/racket/(guide|quick|more|continue|style|scribble|redex|web-server|"
                             r"plot|how-to\w*|ts-guide|getting-started|drracket|pict|inside|raco|"
                             r"reference|framework|slideshow|math|parser-tools|syntax|foreign)/"),
}
_LANGUAGE = re.compile(r"/([a-z]{2,3}(?:[-_@][A-Za-z]+)?)(?=/)")
_TONGUES = frozenset(
    "ar bg bn bs ca cs da de el eo es et eu fa fi fr gl gu he hi hr hu id is it ja ka kn ko lt lv "
    "mk ml mr ms nb nl nn no oc pa pl pt ro ru sk sl sq sr sv ta te th tr uk vi zh en_GB".split())
_OTHER_NAME = re.compile(
    r"[._-](?:de|fr|es|it|ja|ru|pt|pl|nl|ko|zh|tr|da|cs|pt-br|zh-cn)(?=[._-]|$)")


def _files(folder):
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            if not os.path.islink(path):
                yield path


def _read(path):
    if path.endswith(".gz"):
        with gzip.open(path) as file:
            data = file.read(MAX_FILE_BYTES)
    elif path.endswith(".bz2"):
        with bz2.open(path) as file:
            data = file.read(MAX_FILE_BYTES)
    else:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def is_english_path(path):
    for tongue in _LANGUAGE.findall(path):
        if tongue.split("-")[0].split("_")[0].split("@")[0] in _TONGUES or tongue == "en_GB":
            return False
    return not _OTHER_NAME.search(os.path.basename(path))


def _documents(task):
    """The documents of one task: a package with a reader of its own, or some of its files."""
    base, package, paths = task
    folder = os.path.join(base, package)
    single = SINGLE.get(package, wesnoth if package.startswith("wesnoth") else None)
    found = []

    def add(name, blocks):
        pieces = list(sections(prose(blocks)))
        for number, piece in enumerate(pieces):
            if sum(len(text) for _, text in piece) >= MIN_DOCUMENT_CHARS:
                part = f"#{number}" if len(pieces) > 1 else ""
                found.append((package, f"{package}/{name}{part}", piece))

    if single:
        for number, blocks in enumerate(single(folder)):
            add(f"{number:06d}", blocks)
        return found
    for path in paths:
        add(os.path.relpath(path, folder), reader_of(path)(_read(path)))
    return found


def tasks(base, packages=None):
    """The work, in pieces small enough to share out."""
    for package in sorted(packages or os.listdir(base)):
        folder = os.path.join(base, package)
        if not os.path.isdir(folder):
            continue
        if package in SINGLE or package.startswith("wesnoth"):
            yield base, package, []
            continue
        only = _ONLY.get(package, re.compile(""))
        paths = [path for path in _files(folder)
                 if reader_of(path) and only.search(path)
                 and not _SKIPPED_PATH.search(path[len(base):])
                 and is_english_path(path[len(folder):])]
        pages = [path for path in paths if reader_of(path) is markup_blocks]
        if len(pages) >= 5:
            # The same book is often there as Info or plain text too, or as one more conversion.
            paths = [path for path in paths if reader_of(path) in (markup_blocks, roff_blocks)]
        for start in range(0, len(paths), 100):
            yield base, package, paths[start:start + 100]


def _digest(text):
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def fingerprint(paragraph):
    """Equal for paragraphs that differ in case, digits, punctuation or spacing only."""
    return _digest("".join(_WORD.findall(paragraph.lower())))


_SENTENCE = re.compile(r"(?<=[.!?:;])\s+")


class Seen:
    """The paragraphs and sentences met so far."""

    def __init__(self):
        self._paragraphs, self._sentences = set(), set()

    def is_new(self, paragraph):
        """Remembers a paragraph; false if it, or most of its long sentences, were here before."""
        mark = fingerprint(paragraph)
        if mark in self._paragraphs:
            return False
        self._paragraphs.add(mark)
        known = total = 0
        marks = []
        for sentence in _SENTENCE.split(paragraph):
            if len(sentence) >= 40:
                marks.append(fingerprint(sentence))
                total += len(sentence)
                known += len(sentence) if marks[-1] in self._sentences else 0
        self._sentences.update(marks)
        return known * 2 <= total


def deduplicate(documents):
    """Drops paragraphs seen before, then headings left alone and documents left too short."""
    seen = Seen()
    for source, name, blocks in documents:
        kept, heading = [], None
        for kind, text in blocks:
            if kind == HEADING:
                heading = text
            elif seen.is_new(text):
                if heading:
                    kept.append(heading)
                    heading = None
                kept.append(text)
        text = "\n\n".join(kept)
        if len(text) >= MIN_DOCUMENT_CHARS:
            yield source, name, text


def is_heldout(name):
    """A document's side, from its identity alone: it stays when others come or go."""
    return int.from_bytes(_digest("split:" + name), "big") % HELDOUT_ONE_IN == 0


def capped(documents):
    """Takes documents away, in an order of chance, from sources over their share."""
    sizes = {}
    for source, _, text in documents:
        sizes[source] = sizes.get(source, 0) + len(text.encode())
    total = sum(sizes.values())
    limit = {source: min(MAX_BYTES.get(source, total), int(MAX_SHARE * total)) for source in sizes}
    kept, used = [], {}
    for document in sorted(documents, key=lambda d: _digest("cap:" + d[1])):
        size = len(document[2].encode())
        if used.get(document[0], 0) + size <= limit[document[0]]:
            used[document[0]] = used.get(document[0], 0) + size
            kept.append(document)
    return sorted(kept, key=lambda d: d[1])


def write(documents, out):
    """Writes both files whole before either is put in place; returns the sizes."""
    sizes, parts = {}, {"train": [], "heldout": []}
    for source, name, text in documents:
        side = "heldout" if is_heldout(name) else "train"
        row = {"source": source, "id": name, "text": text}
        parts[side].append(json.dumps(row, ensure_ascii=False) + "\n")
        size = sizes.setdefault(source, {"documents": 0, "train_bytes": 0, "heldout_bytes": 0})
        size["documents"] += 1
        size[side + "_bytes"] += len(text.encode())
    total = {key: sum(size[key] for size in sizes.values())
             for key in ("documents", "train_bytes", "heldout_bytes")}
    sizes = {"total": total, "sources": sizes}
    parts["sizes"] = [json.dumps(sizes, indent=1, sort_keys=True) + "\n"]
    names = {"train": "corpus-train.jsonl", "heldout": "corpus-heldout.jsonl",
             "sizes": "corpus-sizes.json"}
    for side, name in names.items():
        with open(os.path.join(out, name + ".part"), "w", encoding="utf-8") as file:
            file.writelines(parts[side])
    for name in names.values():
        os.replace(os.path.join(out, name + ".part"), os.path.join(out, name))
    return sizes


def main(arguments):
    if len(arguments) < 2 or not os.path.isdir(arguments[0]):
        sys.exit("usage: corpus.py TEXT_DIR OUT_DIR [PACKAGE...]")
    base, out, *packages = arguments
    with multiprocessing.Pool() as pool:
        found = []
        for part in pool.imap_unordered(_documents, tasks(base, packages), chunksize=1):
            found += part
    found.sort(key=lambda document: document[1])
    sizes = write(capped(list(deduplicate(found))), out)
    rows = sorted(sizes["sources"].items(), key=lambda row: -row[1]["train_bytes"])
    print(f"{'source':28} documents train bytes  held out")
    for source, size in rows + [("total", sizes["total"])]:
        documents, train, heldout = size["documents"], size["train_bytes"], size["heldout_bytes"]
        print(f"{source:28} {documents:9} {train:11} {heldout:9}")


if __name__ == "__main__":
    main(sys.argv[1:])
