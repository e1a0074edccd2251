# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""TypeScript, JavaScript and Prisma's schema language as tokens. Pure; nothing of it is ever run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError


@dataclass(frozen=True)
class Token:
    """``kind``: string, template (with code in it), name, number or punct. ``fresh``: the first one of its line."""

    kind: str
    text: str
    line: int
    fresh: bool


_WORD = re.compile(r"[\w$]+")
_PUNCTUATION = re.compile(r"\.\.\.|=>|\?\?|\?\.|\|\||.", re.DOTALL)
_SIMPLE_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": ""}
_ESCAPE = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(\r\n|.))", re.DOTALL)


class Scanner:
    """TypeScript, JavaScript or, with ``psl``, Prisma's schema language as tokens, without its comments."""

    def __init__(self, text: str, file: str, psl: bool = False) -> None:
        self.text = text
        self.file = file
        self.quotes = '"' if psl else "\"'"
        self.psl = psl
        self.position = 0
        self.line = 1

    def tokens(self, nested: bool = False) -> list[Token]:
        """Every token; with ``nested`` those up to the brace that closes the ``${`` of a template."""
        found: list[Token] = []
        depth = 0
        last_line = 0
        while self._skip_space():
            character = self.text[self.position]
            line, fresh = self.line, self.line != last_line
            if nested and character == "}" and depth == 0:
                return found
            depth += (character == "{") - (character == "}")
            if character in self.quotes:
                found.append(Token("string", _unescape(self._until(character, "string")), line, fresh))
            elif character == "`" and not self.psl:
                found.extend(self._template(line, fresh))
            elif _WORD.match(character):
                word = _WORD.match(self.text, self.position)[0]  # type: ignore[index]
                self._advance(len(word))
                found.append(Token("number" if word[0].isdigit() else "name", word, line, fresh))
            elif character == "/" and not self.psl and self._starts_regex(found):
                self._regex()
                found.append(Token("regex", "", line, fresh))
            else:
                text = _PUNCTUATION.match(self.text, self.position)[0]  # type: ignore[index]
                self._advance(len(text))
                found.append(Token("punct", text, line, fresh))
            last_line = self.line
        if nested:
            raise self._not_closed("template string", self.line)
        return found

    def _advance(self, length: int) -> None:
        self.line += self.text.count("\n", self.position, self.position + length)
        self.position += length

    def _skip_space(self) -> bool:
        """Move to the next token; False at the end."""
        while self.position < len(self.text):
            if self.text[self.position].isspace():
                self._advance(1)
            elif self.text.startswith("//", self.position):
                end = self.text.find("\n", self.position)
                self._advance((end if end >= 0 else len(self.text)) - self.position)
            elif self.text.startswith("/*", self.position):
                end = self.text.find("*/", self.position + 2)
                if end < 0:
                    raise self._not_closed("comment", self.line)
                self._advance(end + 2 - self.position)
            else:
                return True
        return False

    def _until(self, quote: str, what: str) -> str:
        """The raw text between quotes."""
        line, start = self.line, self.position + 1
        end = start
        while end < len(self.text) and self.text[end] != quote:
            if self.text[end] == "\n":
                raise self._not_closed(what, line)
            end += 2 if self.text[end] == "\\" else 1
        if end >= len(self.text):
            raise self._not_closed(what, line)
        self._advance(end + 1 - self.position)
        return self.text[start:end]

    def _template(self, line: int, fresh: bool) -> list[Token]:
        """A template string: a string without code in it, the code itself where there is nothing else."""
        self._advance(1)
        texts, codes, start = [], [], self.position
        while True:
            if self.position >= len(self.text):
                raise self._not_closed("template string", line)
            character = self.text[self.position]
            if character == "`":
                texts.append(self.text[start : self.position])
                self._advance(1)
                break
            if self.text.startswith("${", self.position):
                texts.append(self.text[start : self.position])
                self._advance(2)
                codes.append(self.tokens(nested=True))
                self._advance(1)
                start = self.position
            else:
                self._advance(2 if character == "\\" else 1)
        if not codes:
            return [Token("string", _unescape(texts[0]), line, fresh)]
        if len(codes) == 1 and not any(texts):
            return [Token("punct", "(", line, fresh), *codes[0], Token("punct", ")", self.line, False)]
        return [Token("template", "", line, fresh)]

    def _starts_regex(self, found: Sequence[Token]) -> bool:
        if not found:
            return True
        last = found[-1]
        return last.kind == "punct" and last.text not in (")", "]", "}") or last.text in ("return", "typeof")

    def _regex(self) -> None:
        line, in_class = self.line, False
        self._advance(1)
        while self.position < len(self.text) and self.text[self.position] != "\n":
            character = self.text[self.position]
            self._advance(2 if character == "\\" else 1)
            if character == "/" and not in_class:
                return
            in_class = character == "[" or in_class and character != "]"
        raise self._not_closed("regular expression", line)

    def _not_closed(self, what: str, line: int) -> PrismaError:
        return PrismaError(
            f"{self.file}, line {line}: a {what} that begins there is not closed, so the file cannot be read. Restore "
            "it from the release, or give path, env_file and env_variable instead of project."
        )


def _unescape(raw: str) -> str:
    def plain(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        if code:
            return chr(int(code, 16)) if int(code, 16) < 0x110000 else ""
        return _SIMPLE_ESCAPES.get(match[4], "" if match[4] == "\r\n" else match[4])

    return _ESCAPE.sub(plain, raw)


OPENING = {"(": ")", "[": "]", "{": "}"}


def closing(tokens: Sequence[Token], start: int) -> int:
    """The index of what closes the bracket at ``start``; the end where nothing does."""
    depth = 0
    for index in range(start, len(tokens)):
        if tokens[index].kind == "punct":
            depth += (tokens[index].text in OPENING) - (tokens[index].text in OPENING.values())
            if depth == 0:
                return index
    return len(tokens)


def split(tokens: Sequence[Token], separators: Sequence[str]) -> list[list[Token]]:
    """The tokens between separators that stand in no bracket."""
    parts: list[list[Token]] = [[]]
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token.kind == "punct" and token.text in separators:
            parts.append([])
        elif token.kind == "punct" and token.text in OPENING:
            end = closing(tokens, index) + 1
            parts[-1].extend(tokens[index:end])
            index = end
            continue
        else:
            parts[-1].append(token)
        index += 1
    return parts


def outside(tokens: Sequence[Token]) -> list[int]:
    """The indices of the tokens that stand in no bracket."""
    found = []
    index = 0
    while index < len(tokens):
        found.append(index)
        bracket = tokens[index].kind == "punct" and tokens[index].text in OPENING
        index = closing(tokens, index) + 1 if bracket else index + 1
    return found
