"""What models say around a caption, taken off: preamble, quotes, markdown, refusals, loops, length."""

from __future__ import annotations

import html
import json
import re

WORDS = 40
LONGEST = 4000  # characters that are looked at; a caption ends far before
LONGEST_CAPTION = 400

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.S | re.I)
_OPEN_THOUGHT = re.compile(r"<think(?:ing)?>.*", re.S | re.I)
_END_THOUGHT = re.compile(r"^.*</think(?:ing)?>", re.S | re.I)
_ROLE = re.compile(r"^.*?\b(?:assistant|ASSISTANT|Assistant)\s*(?::|\n)", re.S)
_TAG = re.compile(r"<[|/!]?[a-zA-Z_][^<>\n]{0,60}>")
_FENCE = re.compile(r"```[a-zA-Z]*\n?|```")
_LINK = re.compile(r"!?\[([^\]\n]{0,200})\]\([^)\s]{0,300}\)")
_URL = re.compile(r"(?:https?://|www\.)\S+")
_LINE_MARK = re.compile(r"^\s*(?:#{1,6}\s+|>\s+|[-*•+]\s+|\d{1,2}[.)]\s+)")
_EMPHASIS = re.compile(r"(\*{1,3}|_{2,3}|`+|~~)(?=\S)(.+?)(?<=\S)\1")
_SPACE = re.compile(r"\s+")

_NOUNS = "image photograph photo picture region crop scene section area part frame view close-up closeup snapshot caption"
_IMAGE = f"(?:{'|'.join(_NOUNS.split())})"
_ADJECTIVES = "provided given second cropped zoomed-in zoomed attached following low-resolution"
_WHICH = rf"(?:(?:the|this|that|your)\s+)?(?:(?:{'|'.join(_ADJECTIVES.split())})\s+){{0,2}}"
_SHOWS = (
    r"(?:(?:clearly\s+|mainly\s+|primarily\s+)?(?:shows?|showcases?|depicts?|displays?|features?|contains?|captures?|presents?|"
    r"portrays?|illustrates?|consists of|focuses on|"
    r"is a (?:close-?up )?(?:image|photo(?:graph)?|picture|view|shot) (?:of|showing)|"
    r"is of|is|appears to (?:be|show)|seems to (?:be|show)))"
)
# Each is tried at the beginning, again and again, until none fits.
_PREAMBLES = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"^(?:sure|certainly|of course|absolutely|okay|ok|yes|great|alright|got it)(?:\s+thing)?\s*[!.,:;-]+\s*",
        r"^(?:here\s+is|here['’]s|here\s+are|below\s+is)\b[^:\n]{0,120}:\s*",
        r"^(?:(?:one|a|short|brief|final|detailed|region|image)[\s-]+){0,3}(?:caption|description|answer|sentence|output|response|result|"
        r"summary|image\s*\d|region)\s*\d{0,2}\s*:\s*",
        rf"^(?:in|within|on|from)\s+{_WHICH}{_IMAGE}(?:\s+(?:of|from)\s+the\s+(?:image|picture|photo(?:graph)?))?\s*,?\s+"
        r"(?:(?:we|you|i|one)\s+(?:can\s+)?(?:see|observe|notice)s?\s+|(?:there\s+(?:is|are)|it\s+shows)\s+)?",
        rf"^{_WHICH}{_IMAGE}(?:\s+(?:of|from)\s+the\s+(?:image|picture|photo(?:graph)?))?\s+{_SHOWS}\b\s*:?\s*",
        rf"^(?:this|it|that)\s+(?:is|shows|depicts|appears\s+to\s+be|seems\s+to\s+be)\s+(?:an?\s+{_IMAGE}\s+(?:of|showing)\s+)?",
        rf"^an?\s+(?:close-?up\s+)?{_IMAGE}\s+(?:showing|depicting|featuring|of)\s+",
        r"^(?:we|you|i|one)\s+(?:can\s+)?(?:see|observe|notice)\s+",
        r"^there\s+(?:is|are)\s+",
    )
)
_LINE_PREAMBLE = re.compile(
    r"^(?:sure|certainly|of course|absolutely|okay|ok|here\s+(?:is|are)|here['’]s|below\s+is|"
    r"the\s+(?:second|cropped)\s+image:?$)",
    re.I,
)
_REFUSAL = re.compile(
    r"\b(?:i['’]?m\s+(?:really\s+|very\s+|so\s+)?sorry|i\s+am\s+(?:very\s+)?sorry|i\s+apologi[sz]e|as\s+an?\s+(?:ai|language\s+model|"
    r"artificial)|i\s+(?:can\s*not|can['’]?t|am\s+(?:not\s+able|unable)|['’]?m\s+(?:not\s+able|unable)|do\s+not|don['’]?t|won['’]?t)\s+"
    r"(?:\w+\s+)?(?:assist|help|see|view|describe|provide|process|identify|comply|discuss|have|analy[sz]e|access|answer|fulfil+|to)|"
    r"(?:cannot|can['’]t|unable\s+to)\s+(?:be\s+)?(?:assist|help|describe|determin|provide|see|view|access|process)\w*|"
    r"no\s+(?:second\s+)?image\s+(?:was|is|has\s+been|were)|(?:please|could\s+you)\s+(?:please\s+)?(?:provide|upload|share|attach|re-?upload)|"
    r"too\s+(?:blurr(?:y|ed)|dark|small|low|pixelated|unclear)\b.{0,40}?\s+to\s+|not\s+(?:possible|enough\s+(?:detail|information))|(?:content|safety)\s+polic)",
    re.I,
)
_CLOSING = re.compile(
    r"^(?:(?:please\s+)?let\s+me\s+know|i\s+hope\s+(?:this|that)|feel\s+free|is\s+there\s+anything|would\s+you\s+like|if\s+you\s+(?:have|need|"
    r"want|would)|do\s+you\s+(?:want|need)|note:|\(?\d+\s+words\)?|word\s+count|thank\s+you)",
    re.I,
)
_GUESS = re.compile(
    r"\b(?:suggest(?:s|ing)|possibl[ey]|perhaps|probably|likely|may\s+be|might|could\s+be|appears?\s+to|seems?\s+to|"
    r"impression|atmosphere|mood|conveys?|evokes?)\b",
    re.I,
)
_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=\S)")
_DANGLING = re.compile(
    r"[\s,;:–-]+(?:(?:and|or|with|a|an|the|of|in|on|at|to|by|from|its|their|is|are|that|which|while|as|very|some)\b[\s,;:–-]*)+$",
    re.I,
)
_COUNT = re.compile(r"\s*\(\s*\d+\s+words\s*\)", re.I)
_DOUBLE_QUOTES = re.compile(r"[\"“”«»]")
_QUOTES = "\"'“”‘’«»`*_ \t"


def clean(answer: str | None, instruction: str = "") -> str | None:
    """The caption in a model's answer, at most 40 words, or None where there is none (empty, a refusal, no words).

    instruction: the one that was given, taken off where the model repeats it.
    """
    if not answer:
        return None
    text = html.unescape(answer[: LONGEST * 4].replace("\x00", " "))
    text = _OPEN_THOUGHT.sub("", _END_THOUGHT.sub("", _THOUGHT.sub("", text)))[:LONGEST]
    if instruction and instruction[:60] in text:
        text = text[text.rindex(instruction[:60]) + len(instruction) :]
    if re.search(r"\b(?:USER|user|User)\b\s*:?", text[:200]):
        text = _ROLE.sub("", text, count=1)
    text = re.sub(r"^\W*(?:assistant|ASSISTANT|Assistant)\s*(?::|\n)", "", text)
    text = _from_json(_FENCE.sub("", text)) or _FENCE.sub("", text)
    text = _URL.sub(" ", _LINK.sub(r"\1", _TAG.sub(" ", text)))
    text = "".join(char if char.isprintable() or char in "\n\t" else " " for char in text).replace(
        "\ufffd", " "
    )
    text = _COUNT.sub("", _DOUBLE_QUOTES.sub("", _lines(text)))
    sentences = [_bare(sentence) for sentence in _SENTENCE.split(text) if sentence.strip() not in instruction]
    sentences = [sentence for sentence in sentences if sentence]
    if sentences and _REFUSAL.search(sentences[0]):
        return None
    text = _unlooped(" ".join(_once([one for one in sentences if not _REFUSAL.search(one)])))
    text = _short(text)
    if len(text) > LONGEST_CAPTION:  # 40 words of no language; one without spaces is cut
        text = "" if text.isascii() else text[:LONGEST_CAPTION]
    words = re.findall(r"[^\W\d_]{2,}|[\u3040-\u9fff\uac00-\ud7a3]", text)
    if not words or sum(map(len, words)) < len(text) * 0.4:
        return None
    return text


def _from_json(text: str) -> str | None:
    """The caption of an answer that came as a JSON object or string."""
    text = text.strip()
    if not text.startswith(("{", "[", '"')):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(data, list) and data:
        data = data[0]
    if isinstance(data, dict):
        named = [data[key] for key in ("caption", "description", "answer", "text", "sentence") if key in data]
        data = named[0] if named else next(iter(data.values()), "")
    return data if isinstance(data, str) else None


def _lines(text: str) -> str:
    """One line from many: list marks, headings and lines that only introduce are dropped."""
    kept = []
    lines = [line for line in text.splitlines() if line.strip()]
    for place, raw in enumerate(lines):
        line = _EMPHASIS.sub(r"\2", _LINE_MARK.sub("", raw)).strip()
        last = place == len(lines) - 1
        heading = raw.lstrip().startswith("#") or (line.endswith(":") and len(line.split()) <= 16)
        if not line or (not last and (heading or (_LINE_PREAMBLE.match(line) and line.endswith((":", "!"))))):
            continue
        kept.append(line if line[-1] in ".!?,;:" else line + ("" if last else ","))
    text = _SPACE.sub(" ", " ".join(kept)).strip(" ,")
    return _EMPHASIS.sub(r"\2", text)


def _bare(sentence: str) -> str:
    """A sentence without its preamble and quotes, or '' for a closing phrase."""
    text = sentence.strip(_QUOTES)
    while True:
        before = text
        for pattern in _PREAMBLES:
            text = pattern.sub("", text, count=1).strip(_QUOTES)
        if text == before:
            break
    return "" if _CLOSING.match(text) else text


def _once(sentences: list[str]) -> list[str]:
    """Every sentence once, and after the first none that only guesses."""
    kept: list[str] = []
    seen: set[str] = set()
    for sentence in sentences:
        key = re.sub(r"\W+", " ", sentence.lower()).strip()
        broken_off = sentence[-1:] not in ".!?" and any(other.startswith(key) for other in seen)
        if key and key not in seen and not broken_off and not (kept and _GUESS.search(sentence)):
            seen.add(key)
            kept.append(sentence)
    return kept


def _unlooped(text: str) -> str:
    """Cut at the place where a phrase of up to 12 words comes for the third time in a row (a single word: too), or where
    the parts of a list begin to repeat."""
    words = text.split()
    plain = [re.sub(r"\W+", "", word.lower()) for word in words]
    for at in range(len(words)):
        for size in range(1, min(12, (len(words) - at) // 2) + 1):
            phrase = plain[at : at + size]
            times = 1
            while plain[at + times * size : at + (times + 1) * size] == phrase:
                times += 1
            if times >= 3 or (times == 2 and size >= 3):
                after = plain[at + times * size :]
                rest = words[at + times * size :]
                if len(after) <= size and " ".join(phrase).startswith(
                    " ".join(after)
                ):  # cut off by the length limit
                    rest = []
                return _unlooped(_DANGLING.sub("", " ".join(words[: at + size] + rest)))
    parts = re.split(r"(?<=[,;])\s+", text)
    seen: set[str] = set()
    kept = []
    for part in parts:
        key = re.sub(r"\W+", " ", part.lower()).strip()
        if key and key not in seen:
            kept.append(part)
        seen.add(key)
    if len(kept) == len(parts):
        return text
    if len(kept) > 1 and any(
        key.startswith(re.sub(r"\W+", " ", kept[-1].lower()).strip() + " ") for key in seen
    ):
        kept.pop()  # the loop broke off inside a part
    return _DANGLING.sub("", " ".join(kept))


def _short(text: str) -> str:
    """At most 40 words: cut after a sentence, else after a clause, else after a word."""
    words = text.split()
    if len(words) > WORDS:
        head = " ".join(words[:WORDS])
        ends = [found.start() + 1 for found in re.finditer(r"[.!?](?=\s|$)", head)]
        clauses = [found.start() for found in re.finditer(r"[,;](?=\s)", head)]
        if ends:
            head = head[: ends[-1]]
        elif clauses and clauses[-1] > len(head) * 0.6:
            head = head[: clauses[-1]]
        text = _DANGLING.sub("", head)
    return text.strip(_QUOTES).rstrip(" ,;:–-").strip()
