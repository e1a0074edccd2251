# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A ``.env`` file as Docker Compose reads it: where each value stands, and how two of them differ."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ASSIGNMENT = re.compile(r"\ufeff?[ \t]*(?:export[ \t]+)?(?P<key>[A-Za-z_][A-Za-z0-9_.-]*)[ \t]*[=:]")
# Compose ends an unquoted value at a # that follows a space; a tab, or no value before it, makes it part of the value.
_UNQUOTED = re.compile(r"(?:(?! #)[^\n])*")


@dataclass(frozen=True)
class Assignment:
    """One ``KEY=value``. ``start`` and ``end`` span the value in the text without quotes; ``line`` counts from 1."""

    key: str
    value: str
    line: int
    start: int
    end: int


def assignments(text: str) -> list[Assignment]:
    """Every assignment in the order of the text. Lines that are none are left out; a later one of a key wins."""
    found = []
    position = 0
    while position < len(text):
        match = _ASSIGNMENT.match(text, position)
        if match:
            start, end, after = _value_span(text, match.end())
            line = text.count("\n", 0, match.start()) + 1
            found.append(Assignment(match["key"], text[start:end], line, start, end))
            position = after
        newline = text.find("\n", position)
        if newline < 0:
            break
        position = newline + 1
    return found


def find(text: str, key: str) -> Assignment | None:
    """The assignment of a key that counts, None when there is none."""
    return next((entry for entry in reversed(assignments(text)) if entry.key == key), None)


def set_value(text: str, key: str, value: str) -> str:
    """The text with ``key`` set to ``value`` in the place where it counts, or on a line of its own at the end.

    Every other character stays, also the quotes around the value, line ends and a missing last newline.
    """
    entry = find(text, key)
    if entry:
        return text[: entry.start] + value + text[entry.end :]
    newline = "\r\n" if "\r\n" in text else "\n"
    if not text:
        return f"{key}={value}\n"
    if text.endswith("\n"):
        return f"{text}{key}={value}{newline}"
    return f"{text}{newline}{key}={value}"


def differing_keys(one: str, other: str) -> list[str]:
    """The names whose values differ, sorted; never the values."""
    left = {entry.key: entry.value for entry in assignments(one)}
    right = {entry.key: entry.value for entry in assignments(other)}
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def redacted(message: str, text: str) -> str:
    """A message without any value of the .env ``text``: what a tool quotes from the file is cut or masked."""
    # A parser that stumbles over the file shows what follows, which may be no assignment at all.
    message = re.sub(r"(\.env\b.*?\b(?:near|quoted value)\b).*", r"\1 ***", message, flags=re.DOTALL)
    for secret in sorted(set(_secrets(text)), key=len, reverse=True):
        # A short value is masked as a word only: cutting every "1" out of a message would leave nothing to read.
        pattern = re.escape(secret) if len(secret) > 3 else rf"(?<![\w.]){re.escape(secret)}(?![\w.])"
        message = re.sub(pattern, "***", message)
    return message


def _secrets(text: str) -> Iterable[str]:
    for entry in assignments(text):
        plain = re.sub(r"\\(.)", r"\1", entry.value)
        yield from (piece for piece in (entry.value, plain, *entry.value.splitlines()) if piece.strip())
        password = re.match(r"[a-z0-9+.-]+://[^/:@]*:([^@]+)@", entry.value, re.IGNORECASE)
        if password:
            yield password[1]


def _value_span(text: str, position: int) -> tuple[int, int, int]:
    """Start and end of the value behind ``=``, and where to look for the next line."""
    while position < len(text) and text[position] in " \t":
        position += 1
    quote = text[position : position + 1]
    if quote in ('"', "'"):
        end = position + 1
        while end < len(text) and text[end] != quote:
            end += 2 if text[end] == "\\" else 1
        if end < len(text):
            return position + 1, end, end + 1
    match = _UNQUOTED.match(text, position)
    value = match[0].rstrip() if match else ""
    return position, position + len(value), position + len(value)
