# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A down script taken apart: its statements with their places, and every reason not to run it. Pure.

The lexer knows PostgreSQL's strings (E'', U&'', dollar quotes), quoted names, nested comments and BEGIN ATOMIC bodies.
Where pglast is installed its parser, which is PostgreSQL's own, has to agree about validity and number of statements.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _sql_outside
from ansible_collections.connectin.rollback.plugins.module_utils._sql_outside import Outside

DIRECTIVES = ("keep", "down")
# A script that says so runs its first statements outside a transaction.
NO_TRANSACTION = "no-transaction"


@dataclass(frozen=True)
class Problem:
    """Why a migration cannot be rolled back as it stands, and what to do about it."""

    code: str
    message: str
    next: str

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "next": self.next}


@dataclass(frozen=True)
class Statement:
    """One statement of a script; ``offset`` is its first character in the script, ``line`` counts from 1."""

    text: str
    offset: int
    line: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Script:
    """A script read. ``statements`` are the ones to run, without the BEGIN and COMMIT pairs that were flattened.

    ``outside`` are those of a script with the directive no-transaction that run before, each by itself.
    """

    path: str
    text: str
    sha256: str
    statements: tuple[Statement, ...]
    flattened: int
    directive: str
    tree: tuple[Any, ...] | None
    problems: tuple[Problem, ...]
    outside: tuple[tuple[Statement, Outside], ...] = ()
    marked: bool = False


class _Unterminated(Exception):
    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what)
        self.what = what
        self.offset = offset


_WORD = re.compile(r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*")
_NUMBER = re.compile(r"\d[\w.]*")
_DOLLAR = re.compile(r"\$(?:[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff]*)?\$")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
# PostgreSQL's own spaces: Python knows more.
_SPACES = " \t\n\r\f\v"
_LINE_END = re.compile(r"[\r\n]")
# A string goes on in the next line, by the rules of its beginning.
_GOES_ON = re.compile(r"(?:[ \t\f\v]|--[^\r\n]*)*[\r\n](?:[ \t\n\r\f\v]|--[^\r\n]*[\r\n])*'")
_DIRECTIVE = re.compile(r"^--\s*rollback\s*:\s*(.*?)\s*$", re.IGNORECASE)


def parser_version() -> str:
    """``pglast 8.8``, or nothing where it is not installed."""
    try:
        import pglast
    except ImportError:
        return ""
    return "pglast " + str(pglast.__version__).lstrip("v")


def parse_tree(text: str) -> tuple[tuple[Any, ...] | None, str, int]:
    """PostgreSQL's parse tree: (statements, error, offset of the error); no statements where pglast is missing."""
    try:
        from pglast import parse_sql
        from pglast.parser import ParseError
    except ImportError:
        return None, "", 0
    try:
        return tuple(raw.stmt for raw in parse_sql(text)), "", 0
    except ParseError as error:
        offset = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else 0
        return None, str(error.args[0]), max(offset, 0)


def line_at(text: str, offset: int) -> int:
    """The line, counted from 1, of a character of the text."""
    return text.count("\n", 0, offset) + 1


def read(raw: bytes, path: str, kind: str = "down") -> Script:
    """Take a script apart. Never raises: what is wrong is in ``problems``, with codes that begin with ``kind``."""
    script = _read(raw, path)
    if kind == "down":
        return script
    renamed = (replace(problem, code=problem.code.replace("down_", f"{kind}_", 1)) for problem in script.problems)
    return replace(script, problems=tuple(renamed))


def _read(raw: bytes, path: str) -> Script:
    sha256 = hashlib.sha256(raw).hexdigest()

    def refused(problem: Problem, text: str = "", directive: str = "") -> Script:
        return Script(path, text, sha256, (), 0, directive, None, (problem,))

    if b"\0" in raw:
        return refused(
            Problem(
                "down_nul", f"{path} holds a NUL byte, after which PostgreSQL would read nothing.", f"Rewrite {path}."
            )
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = raw.count(b"\n", 0, error.start) + 1
        return refused(
            Problem("down_not_utf8", f"{path} is not UTF-8 (line {where}).", f"Convert it: iconv -t UTF-8 {path}")
        )
    if not text.strip():
        return refused(_no_statement("down_empty", path, "is empty"))
    try:
        lexed = _lex(text)
    except _Unterminated as error:
        line = line_at(text, error.offset)
        return refused(
            Problem("down_unparsable", f"{path}, line {line}: {error.what} is never closed.", f"Correct {path}."), text
        )
    problems: list[Problem] = []
    directive, marked = _directives(lexed.comments, path, problems)
    if lexed.backslash is not None:
        problems.append(
            Problem(
                "down_psql_meta",
                f"{path}, line {line_at(text, lexed.backslash)}: a psql command (\\...) is no SQL.",
                "Write it in SQL; scripts are never run by psql.",
            )
        )
        return Script(path, text, sha256, (), 0, directive, None, tuple(problems))
    if not lexed.statements:
        problems.append(_no_statement("down_comment_only", path, "holds comments only"))
        return Script(path, text, sha256, (), 0, directive, None, tuple(problems))

    tree = _checked_tree(text, lexed.statements, path, problems)
    statements = _flatten(lexed.statements, path, problems)
    if not statements and not problems:
        problems.append(_no_statement("down_empty", path, "holds BEGIN and COMMIT only"))
    flattened = len(lexed.statements) - len(statements)
    outside: list[tuple[Statement, Outside]] = []
    if marked:
        nodes = dict(zip(lexed.statements, tree or ()))
        outside, statements = _divide(statements, nodes, path, problems)
    problems.extend(_cannot_run(statements, path, marked))
    return Script(
        path, text, sha256, tuple(statements), flattened, directive, tree, tuple(problems), tuple(outside), marked
    )


def _checked_tree(
    text: str, statements: tuple[Statement, ...], path: str, problems: list[Problem]
) -> tuple[Any, ...] | None:
    """The parse tree, where PostgreSQL's parser is here and agrees with the lexer."""
    tree, error, offset = parse_tree(text)
    if error:
        problems.append(
            Problem(
                "down_unparsable",
                f"{path}, line {line_at(text, offset)}: {error}.",
                f"Correct {path}; PostgreSQL would refuse it.",
            )
        )
    elif tree is not None and len(tree) != len(statements):
        problems.append(
            Problem(
                "down_unparsable",
                f"{path} was split into {len(statements)} statements and PostgreSQL's parser sees {len(tree)}.",
                f"Put every statement of {path} on lines of its own, ended by a semicolon.",
            )
        )
        return None
    return tree


def _no_statement(code: str, path: str, what: str) -> Problem:
    return Problem(
        code,
        f"{path} {what}: running it would mark the migration as rolled back and change nothing.",
        "Write the statements that undo migration.sql, or keep the migration with a line `-- rollback: keep` in it.",
    )


def _directives(comments: tuple[str, ...], path: str, problems: list[Problem]) -> tuple[str, bool]:
    """``keep``, ``down`` or nothing, and whether it says no-transaction: the script's ``-- rollback:`` comments."""
    found = {match[1].lower() for match in map(_DIRECTIVE.match, comments) if match}
    marked = NO_TRANSACTION in found
    found.discard(NO_TRANSACTION)
    if not found:
        return "", marked
    if len(found) == 1 and found <= set(DIRECTIVES):
        return found.pop(), marked
    problems.append(
        Problem(
            "down_directive",
            f"{path} says `-- rollback: {'` and `-- rollback: '.join(sorted(found))}`.",
            "Write one line, `-- rollback: keep` or `-- rollback: down`; `-- rollback: no-transaction` may stand "
            "beside it.",
        )
    )
    return "", marked


@dataclass(frozen=True)
class _Lexed:
    statements: tuple[Statement, ...]
    comments: tuple[str, ...]
    backslash: int | None


def _lex(text: str) -> _Lexed:
    statements: list[Statement] = []
    comments: list[str] = []
    backslash: int | None = None
    words: list[str] = []
    start: int | None = None
    depth = atomic = position = 0
    length = len(text)

    def finish(end: int) -> None:
        nonlocal start, depth, atomic
        if start is not None:
            statements.append(Statement(text[start:end].rstrip(), start, line_at(text, start), tuple(words)))
        words.clear()
        start, depth, atomic = None, 0, 0

    while position < length:
        character = text[position]
        if character in _SPACES:
            position += 1
            continue
        if text.startswith("--", position):
            line_end = _LINE_END.search(text, position)
            end = line_end.start() if line_end else length
            comments.append(text[position:end].rstrip())
            position = end
            continue
        if text.startswith("/*", position):
            position = _end_of_comment(text, position)
            continue
        if character == ";" and depth == 0 and atomic == 0:
            finish(position)
            position += 1
            continue
        if start is None:
            start = position
        if character == "'":
            position = _end_of_string(text, position, escapes=False)
            words.append("'")
        elif character == '"':
            position = _end_of_quoted(text, position)
            words.append('"')
        elif character == "$" and _DOLLAR.match(text, position):
            tag = _DOLLAR.match(text, position)[0]
            end = text.find(tag, position + len(tag))
            if end < 0:
                raise _Unterminated(f"the string that {tag} opens", position)
            position = end + len(tag)
            words.append("'")
        elif _WORD.match(text, position):
            match = _WORD.match(text, position)
            word, position = match[0].upper(), match.end()
            if word == "E" and text.startswith("'", position):
                position = _end_of_string(text, position, escapes=True)
                words.append("'")
                continue
            # Semicolons inside BEGIN ATOMIC ... END belong to the body of the function.
            if word == "ATOMIC" and words and words[-1] == "BEGIN" and words[0] == "CREATE":
                atomic = 1
            elif atomic and word == "CASE":
                atomic += 1
            elif atomic and word == "END":
                atomic -= 1
            words.append(word)
        elif _NUMBER.match(text, position):
            position = _NUMBER.match(text, position).end()
            words.append("0")
        else:
            if character == "\\" and backslash is None:
                backslash = position
            depth = max(0, depth + (character in "([") - (character in ")]"))
            words.append(character)
            position += 1
    finish(length)
    return _Lexed(tuple(statements), tuple(comments), backslash)


def _end_of_comment(text: str, start: int) -> int:
    depth, position = 1, start + 2
    while depth:
        edge = _COMMENT_EDGE.search(text, position)
        if not edge:
            raise _Unterminated("the comment that /* opens", start)
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return position


def _end_of_string(text: str, start: int, escapes: bool) -> int:
    position = start + 1
    while position < len(text):
        if escapes and text[position] == "\\":
            position += 2
        elif text[position] != "'":
            position += 1
        elif text.startswith("''", position):
            position += 2
        elif goes_on := _GOES_ON.match(text, position + 1):
            position = goes_on.end()
        else:
            return position + 1
    raise _Unterminated("a string", start)


def _end_of_quoted(text: str, start: int) -> int:
    position = start + 1
    while True:
        end = text.find('"', position)
        if end < 0:
            raise _Unterminated("a quoted name", start)
        if not text.startswith('""', end):
            return end + 1
        position = end + 2


_OPENS = (("BEGIN",), ("BEGIN", "WORK"), ("BEGIN", "TRANSACTION"), ("START", "TRANSACTION"))
_CLOSES = (
    ("COMMIT",),
    ("COMMIT", "WORK"),
    ("COMMIT", "TRANSACTION"),
    ("END",),
    ("END", "WORK"),
    ("END", "TRANSACTION"),
)
_CONTROL = frozenset(("BEGIN", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"))


def _flatten(statements: tuple[Statement, ...], path: str, problems: list[Problem]) -> list[Statement]:
    """Drop plain BEGIN ... COMMIT pairs, as Prisma generates them; anything else that ends a transaction is refused."""

    def refuse(statement: Statement, why: str) -> None:
        problems.append(
            Problem(
                "down_transaction_control",
                f"{path}, line {statement.line}: {statement.text.split(chr(10))[0][:60]} {why}.",
                "Take it out: the script and its bookkeeping run in one transaction of the module.",
            )
        )

    kept: list[Statement] = []
    opened: Statement | None = None
    for statement in statements:
        words = statement.words
        if words in _OPENS:
            if opened:
                refuse(statement, "opens a transaction inside another one")
            opened = statement
        elif words in _CLOSES:
            if not opened:
                refuse(statement, "ends a transaction that the script did not open")
            opened = None
        elif (
            words[0] in _CONTROL
            or words[:2] in (("START", "TRANSACTION"), ("PREPARE", "TRANSACTION"), ("SET", "TRANSACTION"))
            or words[:4] == ("SET", "SESSION", "CHARACTERISTICS", "AS")
        ):
            refuse(statement, "controls a transaction")
        else:
            kept.append(statement)
    if opened:
        refuse(opened, "opens a transaction that the script never commits")
    return kept


def _divide(
    statements: list[Statement], nodes: Mapping[Statement, Any], path: str, problems: list[Problem]
) -> tuple[list[tuple[Statement, Outside]], list[Statement]]:
    """A marked script's first statements, which run by themselves, and the rest, which runs in the transaction."""
    outside: list[tuple[Statement, Outside]] = []
    if not nodes and statements:
        problems.append(
            Problem(
                "down_needs_parser",
                f"{path} says `-- rollback: {NO_TRANSACTION}`; nothing here can tell where it may be taken up again.",
                "Install pglast on the host that runs the task.",
            )
        )
        return outside, statements
    first = next((at for at, each in enumerate(statements) if not _sql_outside.needed(each.words)), len(statements))
    for statement in statements[:first]:
        what = _sql_outside.read(nodes[statement])
        if isinstance(what, Outside):
            outside.append((statement, what))
        else:
            problems.append(
                Problem(
                    "down_not_resumable",
                    f"{path}, line {statement.line}: {' '.join(statement.words[:3])} {what}.",
                    "Take the statement out and run it by hand.",
                )
            )
    return outside, statements[first:]


def _cannot_run(statements: list[Statement], path: str, marked: bool) -> list[Problem]:
    """Statements that PostgreSQL refuses inside a transaction, and COPY, which needs a client."""
    problems: list[Problem] = []
    for statement in statements:
        words = statement.words
        place = f"{path}, line {statement.line}"
        if words[0] == "COPY" and ("STDIN" in words or "STDOUT" in words):
            problems.append(
                Problem(
                    "down_copy_stdin",
                    f"{place}: COPY from or to the client has no client here.",
                    "Write INSERT instead.",
                )
            )
        elif _sql_outside.needed(words):
            advice = (
                "Put it before the statements that run in the transaction."
                if marked
                else f"Take CONCURRENTLY out; or put it first, with a line `-- rollback: {NO_TRANSACTION}`, and roll "
                "back with transaction=each."
            )
            problems.append(
                Problem(
                    "down_not_transactional", f"{place}: {' '.join(words[:3])} cannot run inside a transaction.", advice
                )
            )
    return problems
