# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a project of Prisma 5, 6 or 7 keeps its migrations, and what `prisma migrate deploy` takes its URL from.

Pure: texts in, no file read. A configuration in TypeScript is read and never run: what code works out is told as a
problem, with the option that says it instead. A URL that stands in a file is a secret, and in no message.
"""

from __future__ import annotations

import json
import os.path
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

POSTGRESQL = "postgresql"
# Prisma reads `postgres` in the datasource as the same.
_ALIASES = {"postgres": POSTGRESQL}
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


@dataclass(frozen=True)
class Schema:
    """The datasource of a schema. ``schemas`` are those of a multi-schema datasource."""

    file: str = ""
    line: int = 0
    provider: str = ""
    url: Url | None = None
    schemas: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """What package.json says. ``schema`` is as written there, ``version`` such as 6.19.3 or ^6.19.0."""

    schema: str = ""
    version: str = ""


@dataclass(frozen=True)
class Layout:
    """A project as `migrate deploy` sees it. ``migrations`` is the folder, '' with ``migrations_problem``."""

    project: str
    version: str
    config: str
    schema: str
    provider: str
    provider_place: str
    schemas: tuple[str, ...]
    migrations: str
    migrations_problem: str
    url: Url


def major(version: str) -> int:
    """The major version, 0 where it cannot be told: 6 for 6.19.3, ^6.19.0 and ~6.1."""
    return release(version)[0]


def release(version: str) -> tuple[int, int]:
    """Major and minor version, (0, 0) where they cannot be told."""
    match = re.match(r"^[\^~=v]*(\d+)(?:\.(\d+))?", version.strip())
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def read_version(text: str, file: str) -> str:
    """The version in a package's own package.json."""
    version = _json(text, file).get("version")
    return version if isinstance(version, str) else ""


def _json(text: str, file: str) -> dict[str, Any]:
    try:
        content = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        raise PrismaError(f"{file} is no JSON. Restore it from the release; `npm pkg get` shows the fault.") from None
    return content if isinstance(content, dict) else {}


def read_package(text: str, file: str) -> Package:
    """What a project's package.json says of Prisma."""
    content = _json(text, file)
    prisma = content.get("prisma")
    schema = prisma.get("schema") if isinstance(prisma, dict) else None
    versions = (
        group["prisma"]
        for group in (content.get("devDependencies"), content.get("dependencies"))
        if isinstance(group, dict) and isinstance(group.get("prisma"), str)
    )
    return Package(schema if isinstance(schema, str) else "", next(versions, ""))


def read_lock(text: str, file: str) -> str:
    """The provider in a migration_lock.toml."""
    match = re.search(r"""^[ \t]*provider[ \t]*=[ \t]*(["'])([^"'\r\n]*)\1[ \t]*(?:#.*)?\r?$""", text, re.MULTILINE)
    if not match or "<<<<<<<" in text:
        raise PrismaError(
            f"{file} names no provider, so it is not known for which database the migrations beside it are. Restore "
            'the file from the release; it holds: provider = "postgresql"'
        )
    return match[2]


def require_postgresql(provider: str, place: str) -> None:
    """Refuse the migrations of another database, before anything connects."""
    if _ALIASES.get(provider, provider) == POSTGRESQL:
        return
    if provider == "cockroachdb":
        why = "CockroachDB lacks the lock that keeps `prisma migrate deploy` out"
    else:
        why = "only PostgreSQL undoes a schema change and its record in one transaction"
    raise PrismaError(
        f"{place} says that the provider is {json.dumps(provider)}, and only postgresql can be rolled back here: "
        f"{why}. If the migrations of several databases lie side by side, give those of PostgreSQL with path."
    )


def read_schema(texts: Mapping[str, str]) -> Schema:
    """The datasource of a schema, which may be several files: {path: text}."""
    found = []
    for file, text in texts.items():
        tokens = _Scanner(text, file, psl=True).tokens()
        for index, token in enumerate(tokens):
            here = [each.text for each in tokens[index : index + 3]]
            if here[:1] == ["datasource"] and here[2:] == ["{"]:
                end = _closing(tokens, index + 2)
                found.append(_datasource(tokens[index + 3 : end], Schema(file, token.line)))
    if len(found) > 1:
        places = " and ".join(f"{each.file}, line {each.line}" for each in found)
        raise PrismaError(f"The schema has more than one datasource, which Prisma refuses too: {places}. Keep one.")
    return found[0] if found else Schema()


def _datasource(tokens: Sequence[_Token], empty: Schema) -> Schema:
    starts = [i for i in range(len(tokens) - 1) if tokens[i].kind == "name" and tokens[i + 1].text == "="]
    values = {tokens[start].text: tokens[start + 2 : end] for start, end in zip(starts, [*starts[1:], len(tokens)])}
    provider = values.get("provider", [])
    if provider and [each.kind for each in provider] != ["string"]:
        raise PrismaError(
            f"{empty.file}, line {provider[0].line}: the provider is no plain string. Write the database's name there, "
            'such as provider = "postgresql".'
        )
    url = values.get("directUrl") or values.get("url")
    name = provider[0].text if provider else ""
    return Schema(
        file=empty.file,
        line=provider[0].line if provider else empty.line,
        provider=_ALIASES.get(name, name),
        url=_psl_url(url, empty.file) if url else None,
        schemas=tuple(each.text for each in values.get("schemas", []) if each.kind == "string"),
    )


def _psl_url(tokens: Sequence[_Token], file: str) -> Url:
    place = f"{file}, line {tokens[0].line}"
    if [each.kind for each in tokens] == ["string"]:
        return Url(place, literal=tokens[0].text)
    if [each.text for each in tokens[:2]] == ["env", "("] and len(tokens) == 4 and tokens[2].kind == "string":
        return Url(place, (tokens[2].text,))
    return Url(
        place, problem=f'{place}: the URL is neither env("...") nor a string. Name its variable with env_variable.'
    )


def read_config(text: str, file: str, project: str) -> Config:
    """What a prisma.config file says, read without running it. ``project`` is where `migrate deploy` is run."""
    try:
        return _read_config(text, file, project)
    except RecursionError:
        raise PrismaError(
            f"{file} is nested too deeply to be read. Give path, env_file and env_variable instead of project."
        ) from None


def _read_config(text: str, file: str, project: str) -> Config:
    tokens = _Scanner(text, file).tokens()
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


def combine(
    project: str, version: str, config: Config | None, schema_path: str, schema_is_folder: bool, schema: Schema
) -> Layout:
    """One project of what its files say."""
    if major(version) >= 8 and "prisma7" not in (config.file if config else ""):
        raise PrismaError(
            f"{project} uses Prisma {version}. Prisma 8 (Prisma Next) has no down migrations and no "
            "_prisma_migrations. Plan a rollback edge with its own tool: prisma migration plan."
        )
    # Prisma 7 has the URL in the configuration alone, and refuses a schema with one.
    in_config = config is not None and config.url is not None and not config.engine and schema.url is None
    seven = major(version) >= 7 or major(version) == 0 and in_config
    url = _url(config, schema, seven)
    if url is None:
        file = (config.file if config else "prisma.config.ts") if seven else schema_path or "schema.prisma"
        url = Url(
            problem=f"{project} takes the URL from the datasource in {file}, and there is none. Name its variable with "
            "env_variable, and the file with env_file."
        )
    migrations, problem = "", ""
    if config and (config.migrations or config.migrations_problem):
        migrations, problem = config.migrations, config.migrations_problem
    elif config and config.schema_problem:
        problem = config.schema_problem
    elif not schema_path:
        problem = (
            f"{project} holds no Prisma project: there is no schema.prisma, prisma/schema.prisma, nor one named in "
            "prisma.config.ts or package.json. Give the folder in which `prisma migrate deploy` is run, or path, "
            "env_file and env_variable instead of project."
        )
    else:
        root = os.path.dirname(schema_path)
        if seven and schema_is_folder:
            root = schema_path
        elif schema.file and not seven and not (0, 0) < release(version) < (6, 6):
            # From 6.6 to 6.19 the folder lies beside the file with the datasource.
            root = os.path.dirname(schema.file)
        migrations = os.path.join(root, "migrations")
    return Layout(
        project=project,
        version=version,
        config=config.file if config else "",
        schema=schema_path,
        provider=schema.provider,
        provider_place=f"{schema.file}, line {schema.line}" if schema.file else "",
        schemas=schema.schemas,
        migrations=migrations,
        migrations_problem=problem,
        url=url,
    )


def _url(config: Config | None, schema: Schema, seven: bool) -> Url | None:
    """What `migrate deploy` of that version connects with; None where nothing says it."""
    if seven:
        # A directUrl in the configuration is passed over.
        return config.url if config else None
    if config and config.engine == "js":
        return Url(
            problem=f"{config.file} connects with a driver adapter, which is code and never run here. Name the "
            "variable that holds the URL with env_variable, and the file with env_file."
        )
    if config and config.engine == "classic":
        return config.direct or config.url
    return schema.url


@dataclass(frozen=True)
class _Token:
    """``kind``: string, template (with code in it), name, number or punct. ``fresh``: the first one of its line."""

    kind: str
    text: str
    line: int
    fresh: bool


_WORD = re.compile(r"[\w$]+")
_PUNCTUATION = re.compile(r"\.\.\.|=>|\?\?|\?\.|\|\||.", re.DOTALL)
_SIMPLE_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": ""}
_ESCAPE = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(\r\n|.))", re.DOTALL)


class _Scanner:
    """TypeScript, JavaScript or, with ``psl``, Prisma's schema language as tokens, without its comments."""

    def __init__(self, text: str, file: str, psl: bool = False) -> None:
        self.text = text
        self.file = file
        self.quotes = '"' if psl else "\"'"
        self.psl = psl
        self.position = 0
        self.line = 1

    def tokens(self, nested: bool = False) -> list[_Token]:
        """Every token; with ``nested`` those up to the brace that closes the ``${`` of a template."""
        found: list[_Token] = []
        depth = 0
        last_line = 0
        while self._skip_space():
            character = self.text[self.position]
            line, fresh = self.line, self.line != last_line
            if nested and character == "}" and depth == 0:
                return found
            depth += (character == "{") - (character == "}")
            if character in self.quotes:
                found.append(_Token("string", _unescape(self._until(character, "string")), line, fresh))
            elif character == "`" and not self.psl:
                found.extend(self._template(line, fresh))
            elif _WORD.match(character):
                word = _WORD.match(self.text, self.position)[0]  # type: ignore[index]
                self._advance(len(word))
                found.append(_Token("number" if word[0].isdigit() else "name", word, line, fresh))
            elif character == "/" and not self.psl and self._starts_regex(found):
                self._regex()
                found.append(_Token("regex", "", line, fresh))
            else:
                text = _PUNCTUATION.match(self.text, self.position)[0]  # type: ignore[index]
                self._advance(len(text))
                found.append(_Token("punct", text, line, fresh))
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

    def _template(self, line: int, fresh: bool) -> list[_Token]:
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
            return [_Token("string", _unescape(texts[0]), line, fresh)]
        if len(codes) == 1 and not any(texts):
            return [_Token("punct", "(", line, fresh), *codes[0], _Token("punct", ")", self.line, False)]
        return [_Token("template", "", line, fresh)]

    def _starts_regex(self, found: Sequence[_Token]) -> bool:
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


_OPENING = {"(": ")", "[": "]", "{": "}"}


def _closing(tokens: Sequence[_Token], start: int) -> int:
    """The index of what closes the bracket at ``start``; the end where nothing does."""
    depth = 0
    for index in range(start, len(tokens)):
        if tokens[index].kind == "punct":
            depth += (tokens[index].text in _OPENING) - (tokens[index].text in _OPENING.values())
            if depth == 0:
                return index
    return len(tokens)


def _split(tokens: Sequence[_Token], separators: Sequence[str]) -> list[list[_Token]]:
    """The tokens between separators that stand in no bracket."""
    parts: list[list[_Token]] = [[]]
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token.kind == "punct" and token.text in separators:
            parts.append([])
        elif token.kind == "punct" and token.text in _OPENING:
            end = _closing(tokens, index) + 1
            parts[-1].extend(tokens[index:end])
            index = end
            continue
        else:
            parts[-1].append(token)
        index += 1
    return parts


class _Computed(Exception):
    """A value that only running the code would tell."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


@dataclass(frozen=True)
class _Object:
    """An object's properties that are certain; others may come from code in ``more_line``, 0 where none do."""

    values: Mapping[str, list[_Token]]
    more_line: int


class _ConfigReader:
    """The object that a configuration exports, and the plain values in it."""

    def __init__(self, tokens: list[_Token], file: str, project: str) -> None:
        self.tokens = tokens
        self.file = file
        self.project = project
        self.folder = os.path.dirname(file)

    def exported(self) -> list[_Token]:
        """The expression that the file exports."""
        depth = 0
        for index, token in enumerate(self.tokens):
            here = [each.text for each in self.tokens[index : index + 4]]
            if depth == 0 and here[:2] == ["export", "default"]:
                return self._expression(index + 2)
            if depth == 0 and here == ["module", ".", "exports", "="]:
                return self._expression(index + 4)
            if token.kind == "punct":
                depth += (token.text in _OPENING) - (token.text in _OPENING.values())
        raise _Computed(self.tokens[-1].line if self.tokens else 1)

    def _expression(self, start: int) -> list[_Token]:
        """The tokens of a statement's expression: up to its semicolon, or to a line that does not go on with it."""
        index = start
        while index < len(self.tokens):
            token = self.tokens[index]
            if token.kind == "punct" and token.text in (";", ","):
                break
            if index > start and token.fresh and self._ends_before(self.tokens[index - 1], token):
                break
            bracket = token.kind == "punct" and token.text in _OPENING
            index = _closing(self.tokens, index) + 1 if bracket else index + 1
        return self.tokens[start:index]

    @staticmethod
    def _ends_before(before: _Token, token: _Token) -> bool:
        goes_on = token.kind == "punct" or token.text in ("as", "satisfies")
        unfinished = before.kind == "punct" and before.text not in (")", "]", "}", "!")
        return not (goes_on or unfinished or before.text in ("as", "satisfies"))

    def _constant(self, name: str) -> list[_Token] | None:
        """What a ``const`` of the file is set to."""
        depth = 0
        for index, token in enumerate(self.tokens):
            here = [each.text for each in self.tokens[index : index + 2]]
            if depth == 0 and here == ["const", name]:
                for equals in range(index + 2, len(self.tokens)):
                    if self.tokens[equals].text == "=" and self.tokens[equals].kind == "punct":
                        return self._expression(equals + 1)
            if token.kind == "punct":
                depth += (token.text in _OPENING) - (token.text in _OPENING.values())
        return None

    def plain(self, tokens: Sequence[_Token], left: int = 8) -> list[_Token]:
        """An expression without types, brackets around it and the names of constants that stand for it."""
        rest = list(tokens)
        line = rest[0].line if rest else 1
        while rest:
            typed = [i for i in _outside(rest)[1:] if rest[i].kind == "name" and rest[i].text in ("as", "satisfies")]
            rest = rest[: typed[0]] if typed else rest
            if rest[-1].text == "!" and rest[-1].kind == "punct" and len(rest) > 1:
                rest = rest[:-1]
            elif rest[0].text == "(" and rest[0].kind == "punct" and _closing(rest, 0) == len(rest) - 1:
                rest = rest[1:-1]
            elif len(rest) == 1 and rest[0].kind == "name" and rest[0].text not in ("undefined", "null", "__dirname"):
                constant = self._constant(rest[0].text) if left else None
                if constant is None:
                    raise _Computed(rest[0].line)
                return self.plain(constant, left - 1)
            else:
                return rest
        raise _Computed(line)

    def properties(self, tokens: Sequence[_Token]) -> _Object:
        """The properties of an object, of ``defineConfig(...)`` around one, or of a constant that is one."""
        rest = self.plain(tokens)
        called = len(rest) > 2 and rest[1].text == "(" and _closing(rest, 1) == len(rest) - 1
        if called and rest[0].text == "defineConfig":
            arguments = [part for part in _split(rest[2:-1], (",",)) if part]
            if len(arguments) != 1:
                raise _Computed(rest[0].line)
            return self.properties(arguments[0])
        if rest[0].text != "{" or rest[0].kind != "punct" or _closing(rest, 0) != len(rest) - 1:
            raise _Computed(rest[0].line)
        values: dict[str, list[_Token]] = {}
        more_line = 0
        for part in _split(rest[1:-1], (",",)):
            if not part:
                continue
            named = part[0].kind in ("name", "string")
            if named and len(part) > 2 and part[1].text == ":" and part[1].kind == "punct":
                values[part[0].text] = part[2:]
            elif named and len(part) == 1:
                values[part[0].text] = part
            elif named and part[1].text == "(":
                # A method: it has that name, and only running it would tell its value.
                values[part[0].text] = [_Token("template", "", part[0].line, False)]
            else:
                # What was set before may be set again.
                values, more_line = {}, part[0].line
        return _Object(values, more_line)

    def _find(self, config: _Object, names: Sequence[str]) -> list[_Token] | None:
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

    def _path(self, tokens: Sequence[_Token]) -> str:
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
        if texts[0] in ("join", "resolve") and texts[1:2] == ["("] and _closing(rest, 1) == len(rest) - 1:
            parts = [self._path(part) for part in _split(rest[2:-1], (",",)) if part]
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

    def _sources(self, tokens: Sequence[_Token]) -> tuple[tuple[str, ...], str]:
        """The variables of an expression in the order in which they are tried, and the string at its end."""
        variables: tuple[str, ...] = ()
        for part in _split(self.plain(tokens), ("??", "||")):
            try:
                rest = self.plain(part)
                alternatives = len(_split(rest, ("??", "||"))) > 1
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


def _source(tokens: Sequence[_Token]) -> tuple[tuple[str, ...], str]:
    name = _variable(tokens)
    if name:
        return (name,), ""
    if len(tokens) == 1 and tokens[0].kind == "string":
        return (), tokens[0].text
    if [each.text for each in tokens] in (["undefined"], ["null"]):
        return (), ""
    raise _Computed(tokens[0].line)


def _outside(tokens: Sequence[_Token]) -> list[int]:
    """The indices of the tokens that stand in no bracket."""
    found = []
    index = 0
    while index < len(tokens):
        found.append(index)
        bracket = tokens[index].kind == "punct" and tokens[index].text in _OPENING
        index = _closing(tokens, index) + 1 if bracket else index + 1
    return found


def _variable(tokens: Sequence[_Token]) -> str:
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
