# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A prisma.config file in TypeScript or JavaScript, read and never run. Pure.

What code works out is told as a problem, with the option that says it instead. A URL that stands in a file is a secret,
and in no message.
"""

from __future__ import annotations

import os.path
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_tokens import (
    OPENING,
    Scanner,
    Token,
    closing,
    outside,
    split,
)

_PRISMA_8 = (
    "{0} is a configuration of Prisma 8 (Prisma Next), which has no down migrations and no _prisma_migrations. Plan a "
    "rollback edge with its own tool: prisma migration plan."
)
# What only Prisma 8 is configured with.
_PRISMA_8_PACKAGES = re.compile(r"^@prisma(?:-next/|/orm-|/cli-engine)")


@dataclass(frozen=True)
class Url:
    """What `migrate deploy` connects with: the first of ``variables`` that is set, or ``literal``, or a ``problem``."""

    place: str = ""
    variables: tuple[str, ...] = ()
    literal: str = field(default="", repr=False)
    problem: str = ""


@dataclass(frozen=True)
class Config:
    """A prisma.config file. A path is absolute, or '' where none is given; ``*_problem`` is why it cannot be read.

    ``engine`` is classic, js (a driver adapter) or '', ``url`` and ``direct`` are the datasource's.
    """

    file: str
    schema: str = ""
    schema_problem: str = ""
    migrations: str = ""
    migrations_problem: str = ""
    engine: str = ""
    url: Url | None = None
    direct: Url | None = None


def read_config(text: str, file: str, project: str) -> Config:
    """What a prisma.config file says, read without running it. ``project`` is where `migrate deploy` is run."""
    try:
        return _read_config(text, file, project)
    except RecursionError:
        raise PrismaError(
            f"{file} is nested too deeply to be read. Give path, env_file and env_variable instead of project."
        ) from None


def _read_config(text: str, file: str, project: str) -> Config:
    tokens = Scanner(text, file).tokens()
    for before, token in zip(tokens, tokens[1:]):
        imported = token.kind == "string" and before.text in ("from", "import", "(")
        if token.text == "definePrismaConfig" or imported and _PRISMA_8_PACKAGES.match(token.text):
            raise PrismaError(_PRISMA_8.format(file))
    reader = _ConfigReader(tokens, file, project)
    try:
        config = reader.properties(reader.exported())
    except _Computed as error:
        problem = (
            f"{file}, line {error.line}: the configuration is worked out by code, which is never run here. Write "
            "`export default defineConfig({ ... })` with plain values, or give path and env_variable instead"
        )
        unread = f"{problem}."
        return Config(file, "", unread, "", unread, "classic", Url(f"{file}, line {error.line}", problem=unread))
    if {"orm", "contract"} & set(config.values):
        raise PrismaError(_PRISMA_8.format(file))
    schema, schema_problem = reader.path(config, ("schema",))
    migrations, migrations_problem = reader.path(config, ("migrations", "path"))
    return Config(
        file=file,
        schema=schema,
        schema_problem=schema_problem,
        migrations=migrations,
        migrations_problem=migrations_problem,
        engine="js" if "adapter" in config.values else reader.engine(config),
        url=reader.url(config, "url"),
        direct=reader.url(config, "directUrl"),
    )


class _Computed(Exception):
    """A value that only running the code would tell."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


@dataclass(frozen=True)
class _Object:
    """An object's properties that are certain; others may come from code in ``more_line``, 0 where none do."""

    values: Mapping[str, list[Token]]
    more_line: int


class _ConfigReader:
    """The object that a configuration exports, and the plain values in it."""

    def __init__(self, tokens: list[Token], file: str, project: str) -> None:
        self.tokens = tokens
        self.file = file
        self.project = project
        self.folder = os.path.dirname(file)

    def exported(self) -> list[Token]:
        """The expression that the file exports."""
        depth = 0
        for index, token in enumerate(self.tokens):
            here = [each.text for each in self.tokens[index : index + 4]]
            if depth == 0 and here[:2] == ["export", "default"]:
                return self._expression(index + 2)
            if depth == 0 and here == ["module", ".", "exports", "="]:
                return self._expression(index + 4)
            if token.kind == "punct":
                depth += (token.text in OPENING) - (token.text in OPENING.values())
        raise _Computed(self.tokens[-1].line if self.tokens else 1)

    def _expression(self, start: int) -> list[Token]:
        """The tokens of a statement's expression: up to its semicolon, or to a line that does not go on with it."""
        index = start
        while index < len(self.tokens):
            token = self.tokens[index]
            if token.kind == "punct" and token.text in (";", ","):
                break
            if index > start and token.fresh and self._ends_before(self.tokens[index - 1], token):
                break
            bracket = token.kind == "punct" and token.text in OPENING
            index = closing(self.tokens, index) + 1 if bracket else index + 1
        return self.tokens[start:index]

    @staticmethod
    def _ends_before(before: Token, token: Token) -> bool:
        goes_on = token.kind == "punct" or token.text in ("as", "satisfies")
        unfinished = before.kind == "punct" and before.text not in (")", "]", "}", "!")
        return not (goes_on or unfinished or before.text in ("as", "satisfies"))

    def _constant(self, name: str) -> list[Token] | None:
        """What a ``const`` of the file is set to."""
        depth = 0
        for index, token in enumerate(self.tokens):
            here = [each.text for each in self.tokens[index : index + 2]]
            if depth == 0 and here == ["const", name]:
                for equals in range(index + 2, len(self.tokens)):
                    if self.tokens[equals].text == "=" and self.tokens[equals].kind == "punct":
                        return self._expression(equals + 1)
            if token.kind == "punct":
                depth += (token.text in OPENING) - (token.text in OPENING.values())
        return None

    def plain(self, tokens: Sequence[Token], left: int = 8) -> list[Token]:
        """An expression without types, brackets around it and the names of constants that stand for it."""
        rest = list(tokens)
        line = rest[0].line if rest else 1
        while rest:
            typed = [i for i in outside(rest)[1:] if rest[i].kind == "name" and rest[i].text in ("as", "satisfies")]
            rest = rest[: typed[0]] if typed else rest
            if rest[-1].text == "!" and rest[-1].kind == "punct" and len(rest) > 1:
                rest = rest[:-1]
            elif rest[0].text == "(" and rest[0].kind == "punct" and closing(rest, 0) == len(rest) - 1:
                rest = rest[1:-1]
            elif len(rest) == 1 and rest[0].kind == "name" and rest[0].text not in ("undefined", "null", "__dirname"):
                constant = self._constant(rest[0].text) if left else None
                if constant is None:
                    raise _Computed(rest[0].line)
                return self.plain(constant, left - 1)
            else:
                return rest
        raise _Computed(line)

    def properties(self, tokens: Sequence[Token]) -> _Object:
        """The properties of an object, of ``defineConfig(...)`` around one, or of a constant that is one."""
        rest = self.plain(tokens)
        called = len(rest) > 2 and rest[1].text == "(" and closing(rest, 1) == len(rest) - 1
        if called and rest[0].text == "defineConfig":
            arguments = [part for part in split(rest[2:-1], (",",)) if part]
            if len(arguments) != 1:
                raise _Computed(rest[0].line)
            return self.properties(arguments[0])
        if rest[0].text != "{" or rest[0].kind != "punct" or closing(rest, 0) != len(rest) - 1:
            raise _Computed(rest[0].line)
        values: dict[str, list[Token]] = {}
        more_line = 0
        for part in split(rest[1:-1], (",",)):
            if not part:
                continue
            named = part[0].kind in ("name", "string")
            if named and len(part) > 2 and part[1].text == ":" and part[1].kind == "punct":
                values[part[0].text] = part[2:]
            elif named and len(part) == 1:
                values[part[0].text] = part
            elif named and part[1].text == "(":
                # A method: it has that name, and only running it would tell its value.
                values[part[0].text] = [Token("template", "", part[0].line, False)]
            else:
                # What was set before may be set again.
                values, more_line = {}, part[0].line
        return _Object(values, more_line)

    def _find(self, config: _Object, names: Sequence[str]) -> list[Token] | None:
        """The expression of a property, by its names from the outside in; None where nobody sets it."""
        for name in names:
            if name not in config.values:
                if config.more_line:
                    raise _Computed(config.more_line)
                return None
            value = config.values[name]
            if [each.text for each in self.plain(value)] == ["undefined"]:
                return None
            if name != names[-1]:
                config = self.properties(value)
        return value

    def path(self, config: _Object, names: Sequence[str]) -> tuple[str, str]:
        """A path as an absolute one, '' where none is given; and why it cannot be read."""
        try:
            value = self._find(config, names)
            if value is None:
                return "", ""
            return os.path.normpath(os.path.join(self.folder, self._path(value))), ""
        except _Computed as error:
            return "", (
                f"{self.file}, line {error.line}: {'.'.join(names)} is worked out by code, which is never run here. "
                "Give the folder of the migrations with path."
            )

    def _path(self, tokens: Sequence[Token]) -> str:
        rest = self.plain(tokens)
        texts = [each.text for each in rest]
        if len(rest) == 1 and rest[0].kind == "string":
            return rest[0].text
        if texts in (["__dirname"], ["import", ".", "meta", ".", "dirname"]):
            return self.folder
        if texts == ["process", ".", "cwd", "(", ")"]:
            return self.project
        if len(texts) > 2 and texts[1] == "." and texts[0] in ("path", "posix"):
            rest, texts = rest[2:], texts[2:]
        if texts[0] in ("join", "resolve") and texts[1:2] == ["("] and closing(rest, 1) == len(rest) - 1:
            parts = [self._path(part) for part in split(rest[2:-1], (",",)) if part]
            if texts[0] == "resolve":
                return os.path.join(self.project, *parts)
            return posixpath.normpath("/".join(parts))
        raise _Computed(rest[0].line)

    def engine(self, config: _Object) -> str:
        """What Prisma 6 migrates with: classic for the datasource of the configuration, js for an adapter."""
        try:
            value = self._find(config, ("engine",))
            return self.plain(value)[0].text if value else ""
        except _Computed:
            return ""

    def url(self, config: _Object, name: str) -> Url | None:
        """What the configuration's datasource connects with; None where it has no such property."""
        try:
            value = self._find(config, ("datasource", name))
            if value is None:
                return None
            place = f"{self.file}, line {value[0].line}"
            variables, literal = self._sources(value)
            if variables or literal:
                # A string behind a variable is for where nothing connects, such as `prisma generate`.
                return Url(place, variables, "" if variables else literal)
            return Url(place, problem=f"{place}: the datasource's URL is empty. Name its variable with env_variable.")
        except _Computed as error:
            place = f"{self.file}, line {error.line}"
            return Url(
                place,
                problem=f"{place}: the URL is worked out by code, which is never run here. Name the variable that "
                "holds it with env_variable, and the file with env_file.",
            )

    def _sources(self, tokens: Sequence[Token]) -> tuple[tuple[str, ...], str]:
        """The variables of an expression in the order in which they are tried, and the string at its end."""
        variables: tuple[str, ...] = ()
        for part in split(self.plain(tokens), ("??", "||")):
            try:
                rest = self.plain(part)
                alternatives = len(split(rest, ("??", "||"))) > 1
                more, literal = self._sources(rest) if alternatives else _source(rest)
            except _Computed:
                # What follows a variable counts only where the variable is not set.
                if variables:
                    break
                raise
            variables = (*variables, *more)
            if literal:
                return variables, literal
        return variables, ""


def _source(tokens: Sequence[Token]) -> tuple[tuple[str, ...], str]:
    name = _variable(tokens)
    if name:
        return (name,), ""
    if len(tokens) == 1 and tokens[0].kind == "string":
        return (), tokens[0].text
    if [each.text for each in tokens] in (["undefined"], ["null"]):
        return (), ""
    raise _Computed(tokens[0].line)


def _variable(tokens: Sequence[Token]) -> str:
    """The environment variable that an expression is, '' where it is none."""
    texts: list[Any] = [each.text for each in tokens]
    if texts[:2] == ["env", "<"] and ">" in texts:
        del texts[1 : texts.index(">") + 1]
    if texts[:2] == ["env", "("] and len(texts) == 4 and tokens[-2].kind == "string":
        return tokens[-2].text
    texts = ["." if text == "?." else text for text in texts]
    if texts[:3] == ["process", ".", "env"]:
        rest = texts[3:]
        if rest[:2] == [".", "["]:
            rest = rest[1:]
        if len(rest) == 2 and rest[0] == "." and tokens[-1].kind == "name":
            return rest[1]
        if len(rest) == 3 and rest[0] == "[" and tokens[-2].kind == "string":
            return rest[1]
    return ""
