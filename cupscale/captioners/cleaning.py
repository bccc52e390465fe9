"""The caption in a model's answer: without thoughts, marks, preambles, chatter and loops, and no longer than asked."""

from __future__ import annotations

import html
import json
import re

WORDS = 40
LONGEST = 4000  # characters that are read; a caption ends far before
LONGEST_CAPTION = 400

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A.*</think(?:ing)?>", re.S | re.I)
_ROLE = re.compile(r"\A\W*(?:(?:user|system)\b.*\b)?assistant\s*[:\n]", re.S | re.I)
_MARKUP = re.compile(
    r"```\w*|<[|/!]?[a-zA-Z_][^<>\n]{0,60}>|\]\([^)\s]{0,300}\)|(?:https?://|www\.)\S+|[*`\[\]“”\"]|__|~~"
)
_LINE_MARK = re.compile(r"\A\s*(?:[>\-•+]|\d{1,2}[.)])\s+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_DANGLING = re.compile(
    r"(?:[\s,;:–-]+(?:and|or|with|of|in|on|at|the|an?|to|by|from|its|as|for|is|are))*[\s,;:–-]*\Z", re.I
)

_IMAGE = r"(?:image|photo(?:graph)?|picture|region|crop|section|scene|view)"
# What comes before a caption. Tried again until none of it is left.
_PREAMBLE = re.compile(
    r"\A(?:"
    r"(?:sure|certainly|of course|absolutely|okay|ok|yes)\b\s*[,.!:-]+"
    r"|(?!an?\s)[^:\n]{0,80}\b(?:caption|description|answer|sentence|image|region|here)(?:\s\w+){0,3}:"
    rf"|(?:in\s|on\s)?(?:the|this|that)\s(?:[\w-]+\s){{0,2}}{_IMAGE}\b,?(?:\sof the\s{_IMAGE},?)?"
    r"\s(?:clearly\s)?(?:shows?|depicts?|features?|contains?|captures?|displays?|presents?|is of|is)\b"
    rf"|(?:in|on)\s(?:the|this)\s(?:[\w-]+\s)?{_IMAGE},?"
    r"|an?\s(?:cropped\s|detailed\s)?(?:close-?up(?:\s(?:image|photo|view))?|image|photo(?:graph)?|picture)\s(?:of|showing)\b"
    r"|(?:this|it)\s(?:is|shows|depicts)\b|there\s(?:is|are)\b|(?:we|you|i)\s(?:can\s)?see\b"
    r")\s*",
    re.I,
)
_REFUSAL = re.compile(
    r"i(?:'m| am) (?:very )?sorry|\bsorry,|apologi|as an ai|\bi (?:can't|cannot|can not)|i(?:'m| am) (?:not able|unable)|"
    r"unable to|cannot be determined|no image|please provide|too (?:blurry|dark|small) to",
    re.I,
)
_CHATTER = re.compile(
    r"let me know|i hope|feel free|would you like|note:|words\)|thank you|suggest|possibl|perhaps|probably|likely|"
    r"(?:might|may|could) be|(?:appears|seems) to|atmosphere",
    re.I,
)


def clean(answer: str | None, instruction: str = "") -> str | None:
    """Take the caption out of an answer.

    Args:
        answer: What the model wrote: text, or JSON with the caption in it.
        instruction: The one that was given. It is taken off where the model repeats it.

    Returns:
        At most 40 words, or None where there is no caption: nothing, a refusal, no words.
    """
    text = html.unescape(_structured(_unwrapped(answer or "", instruction)))
    text = _one_line(_MARKUP.sub(" ", text))
    sentences = [_bare(one) for one in _SENTENCE.split(text) if one not in instruction]
    sentences = [one for one in sentences if one]
    if not sentences or _REFUSAL.search(sentences[0]):
        return None
    rest = [one for one in sentences[1:] if not (_REFUSAL.search(one) or _CHATTER.search(one))]
    text = _short(_unlooped(" ".join([sentences[0], *rest])))
    if len(text) > LONGEST_CAPTION:  # 40 words of no language; one without spaces is cut
        text = "" if text.isascii() else text[:LONGEST_CAPTION]
    words = re.findall(r"[^\W\d_]{2,}|[\u3040-\u9fff\uac00-\ud7a3]", text)
    return text if words and sum(map(len, words)) >= len(text) * 0.4 else None


def _unwrapped(text: str, instruction: str) -> str:
    """Without thoughts, a repeated instruction, role marks and characters that cannot be seen."""
    text = _THOUGHT.sub("", text[: LONGEST * 4])[:LONGEST]
    if instruction and instruction[:60] in text:
        text = text[text.rindex(instruction[:60]) + len(instruction) :]
    text = _ROLE.sub("", text).replace("’", "'")
    return "".join(
        char if char == "\n" or (char.isprintable() and char != "\ufffd") else " " for char in text
    )


def _structured(text: str) -> str:
    """The caption of JSON, also where the answer's length limit cut it off; other text stays."""
    found = re.search(r'\{\s*"\w+"\s*:\s*"?', text)
    if not found:
        return text
    try:
        data, _ = json.JSONDecoder().raw_decode(text, found.start())
    except (ValueError, RecursionError):
        return text[found.end() :]
    return next((value for value in (data.get("caption"), *data.values()) if isinstance(value, str)), "")


def _one_line(text: str) -> str:
    """One line from many, without list marks, headings and lines that only introduce."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [
        _LINE_MARK.sub("", line)
        for n, line in enumerate(lines)
        if not line.startswith("#") and (not line.endswith(":") or n == len(lines) - 1)
    ]
    joined = " ".join(line if line[-1:] in ".!?,;:" else f"{line}," for line in kept)
    return re.sub(r"\s+(?=[\s.,;:!?])", "", joined).strip(" ,")


def _bare(sentence: str) -> str:
    """Without preambles."""
    before = None
    while sentence != before:
        before, sentence = sentence, _PREAMBLE.sub("", sentence).strip(" '")
    return sentence


def _unlooped(text: str) -> str:
    """Cut where a phrase of up to 12 words comes for the third time in a row, or one of three words or more for the second."""
    words = text.split()
    plain = [re.sub(r"\W+", "", word.lower()) for word in words]
    at = 0
    while at < len(words):
        for size in range(1, min(12, (len(words) - at) // 2) + 1):
            phrase, end = plain[at : at + size], at + size
            while plain[end : end + size] == phrase:
                end += size
            if end >= at + 3 * size or (end > at + size and size >= 3):
                if " ".join(phrase).startswith(" ".join(plain[end:])):  # the length limit cut the loop
                    end = len(words)
                del words[at + size : end], plain[at + size : end]
                break
        at += 1
    return " ".join(words)


def _short(text: str) -> str:
    """At most 40 words: cut after a sentence, else after a clause, else after a word."""
    words = text.split()
    if len(words) > WORDS:
        text = " ".join(words[:WORDS])
        sentence = max(f"{text} ".rfind(mark) for mark in (". ", "! ", "? "))
        clause = max(text.rfind(mark) for mark in (", ", "; "))
        if sentence > 0:
            return text[: sentence + 1]
        text = text[:clause] if clause > len(text) * 0.6 else text
    return text if text.endswith((".", "!", "?")) else _DANGLING.sub("", text)
