# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prisma's connection URL read as libpq parameters. Pure: no file, no network.

Prisma and libpq spell the same URL and mean different things: libpq refuses ``schema`` and ``connection_limit``, and
``sslcert`` is the server's certificate for Prisma and the client's for libpq. Which parameters there are and what they
mean is Prisma's own reading of them, in quaint/src/connector/postgres/url.rs of prisma-engines.
No message of this module holds any part of the URL that could be a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_to_bytes

from ansible_collections.connectin.rollback.plugins.module_utils import _env_file
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

# Read by Prisma's own pool or query engine; libpq would refuse the connection over them.
PRISMA_ONLY = frozenset(
    (
        "connection_limit",
        "max_connection_lifetime",
        "max_idle_connection_lifetime",
        "pool_timeout",
        "socket_timeout",
        "statement_cache_size",
    )
)
# The modules name themselves and have a timeout of their own.
OWN = frozenset(("application_name", "connect_timeout"))
CHANNEL_BINDINGS = frozenset(("disable", "prefer", "require"))
SSL_MODES = frozenset(("disable", "allow", "prefer", "require", "verify-ca", "verify-full"))
VERIFYING = frozenset(("verify-ca", "verify-full"))
OTHER_DATABASES = {
    "cockroach": "CockroachDB",
    "cockroachdb": "CockroachDB",
    "file": "SQLite",
    "libsql": "SQLite",
    "mariadb": "MariaDB",
    "mongodb": "MongoDB",
    "mongodb+srv": "MongoDB",
    "mysql": "MySQL",
    "sqlite": "SQLite",
    "sqlserver": "SQL Server",
}
ENCODE = (
    "Percent-encode the password, which turns / ? # @ and : into %2F %3F %23 %40 and %3A: "
    "python3 -c 'import urllib.parse as u; print(u.quote(input(), safe=\"\"))'"
)
# A parameter whose name is not of this kind may be the rest of a password.
_PARAMETER = re.compile(r"^[a-z][a-z_]{0,40}$")


@dataclass(frozen=True)
class Target:
    """Where to connect: ``params`` for libpq, and what only Prisma knows."""

    params: Mapping[str, str] = field(repr=False)
    schema: str
    pgbouncer: bool
    notes: tuple[str, ...]

    @property
    def password(self) -> str:
        return self.params.get("password", "")

    @property
    def where(self) -> str:
        """``user@host:port/database``, fit for a message."""
        host = self.params.get("host", "localhost")
        address = self.params.get("hostaddr", "")
        if address and address != host:
            host = f"{host} ({address})"
        return f"{self.params.get('user', '')}@{host}:{self.params.get('port', '5432')}/{self.params['dbname']}"


_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(url: str, resolve: Mapping[str, str] | None = None) -> Target:
    """Translate a Prisma URL. ``resolve`` gives addresses of host names, as curl's ``--resolve`` does."""
    if _SURROGATE.search(url):
        raise PrismaError(
            "The database URL is not UTF-8. Percent-encode the bytes of the password, or save the file as UTF-8."
        )
    user, password, host, port, path, query = _split(url.strip())
    # The last value of a parameter counts, as in Prisma.
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    host = pairs.pop("host", "") or _decoded(host) or "localhost"
    if "," in host:
        raise PrismaError(
            "The database URL names several hosts, and Prisma connects to one. Give the URL of the primary alone."
        )
    if not user:
        raise PrismaError(
            "The database URL names no user, without which Prisma does not connect either. It has the form "
            "postgresql://user:password@host:5432/name?schema=public"
        )
    notes: list[str] = []
    params: dict[str, str] = {
        "dbname": _decoded(path[1:].split("/")[0]) or "postgres",
        "user": _decoded(user),
        "host": host,
    }
    if password:
        params["password"] = _decoded(password)
    for name in (host, host.lower()):
        if name in (resolve or {}):
            params["hostaddr"] = str((resolve or {})[name])
    if port:
        params["port"] = str(port)
    schema = pairs.pop("schema", "")
    pgbouncer = _pgbouncer(pairs.pop("pgbouncer", "false"), notes)
    params.update(_tls(pairs, notes))
    params.update(_channel_binding(pairs.pop("channel_binding", ""), notes))
    if pairs.get("options"):
        params["options"] = pairs["options"]
    for key in pairs:
        if key in PRISMA_ONLY | OWN | {"options"}:
            continue
        named = f"parameter {key}" if _PARAMETER.match(key) else "parameters include one that"
        notes.append(f"the URL's {named} is unknown to Prisma and was left out")
    if any("\0" in value for value in (*params.values(), schema)):
        raise PrismaError("The database URL holds a NUL character (%00), which PostgreSQL has nowhere. Take it out.")
    return Target(params=params, schema=schema, pgbouncer=pgbouncer, notes=tuple(notes))


def _split(url: str) -> tuple[str, str, str, int, str, str]:
    """User, password, host, port (0 where none is given), path and query, still encoded.

    Split as Prisma does it: the password may hold any character but / ? and #, also brackets and @.
    """
    if url[:1] in ("'", '"', "`"):
        raise PrismaError("The database URL begins with a quotation mark, which is no part of it. Give it without.")
    if re.search(r"[\x00-\x1f\x7f]", url):
        raise PrismaError(
            "The database URL holds a line break or another control character. Give it on one line; in a password such "
            "a character is percent-encoded, a line break as %0A."
        )
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme in ("prisma", "prisma+postgres"):
        raise PrismaError(
            f"The database URL starts with {scheme}://, which is Prisma's own proxy and no PostgreSQL server. "
            "Give the direct URL (postgresql://...), the one that `prisma migrate deploy` uses as directUrl."
        )
    if scheme in OTHER_DATABASES:
        raise PrismaError(
            f"The database URL starts with {scheme}:, so it is of {OTHER_DATABASES[scheme]}. Only PostgreSQL can be "
            "rolled back here: the URL has to start with postgresql:// or postgres://."
        )
    if scheme not in ("postgres", "postgresql") or not rest.startswith("//"):
        raise PrismaError(
            "The database URL is no PostgreSQL URL: it has to start with postgresql:// or postgres://, as in "
            "postgresql://user:password@host:5432/name?schema=public"
        )
    end = re.search(r"[/?#]|$", rest[2:])
    cut = 2 + (end.start() if end else 0)
    authority, tail = rest[2:cut], rest[cut:]
    if "@" in tail:
        raise PrismaError(f"The database URL cannot be read: an @ follows the host. {ENCODE}")
    if "#" in tail:
        raise PrismaError(f"The database URL holds a '#', which ends it. {ENCODE}")
    path, _mark, query = tail.partition("?")
    account, _at, address = authority.rpartition("@")
    user, _colon, password = account.partition(":")
    match = re.match(r"^(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::([0-9]*))?$", address)
    if not match and "," in address:
        raise PrismaError(
            "The database URL names several hosts, and Prisma connects to one. Give the URL of the primary alone."
        )
    port = int((match[3] if match else "") or 0)
    if not match or port > 65535:
        # The reason would quote a part of the password when a character of it is not percent-encoded.
        raise PrismaError(f"The database URL cannot be read: its host or port is malformed. {ENCODE}")
    return user, password, match[1] or match[2] or "", port, path, query


def _decoded(text: str) -> str:
    """Without percent-encoding; as it stands where that would be no UTF-8, as Prisma has it."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return text


def _pgbouncer(value: str, notes: list[str]) -> bool:
    if value in ("true", "false"):
        return value == "true"
    # Prisma refuses the URL. What is done behind a pooler is right without one as well.
    notes.append("the URL's pgbouncer is neither true nor false and was read as true")
    return True


def _channel_binding(value: str, notes: list[str]) -> dict[str, str]:
    if not value or value in CHANNEL_BINDINGS:
        return {"channel_binding": value} if value else {}
    notes.append("the URL's channel_binding is unknown and was read as prefer, as Prisma does")
    return {}


def _tls(pairs: dict[str, str], notes: list[str]) -> dict[str, str]:
    """Prisma's TLS parameters as libpq's; takes them out of ``pairs``."""
    mode = pairs.pop("sslmode", "")
    certificate = pairs.pop("sslcert", "")
    # libpq's own spelling, which Prisma leaves out; other clients of the same URL read it.
    certificate = pairs.pop("sslrootcert", "") or certificate
    accept = pairs.pop("sslaccept", "accept_invalid_certs")
    pairs.pop("sslpassword", None)
    if pairs.pop("sslidentity", ""):
        raise PrismaError(
            "The database URL names a client certificate (sslidentity) in PKCS#12, which libpq does not read. Convert "
            "it with `openssl pkcs12`, put it into ~/.postgresql/postgresql.crt and .key of the user that runs the "
            "module, and give the URL without sslidentity."
        )
    if mode and mode not in SSL_MODES:
        notes.append("the URL's sslmode is unknown and was read as prefer, as Prisma does")
        mode = "prefer"
    if mode == "disable":
        return {"sslmode": mode}
    # Prisma takes every other value for strict.
    if accept != "accept_invalid_certs":
        if accept != "strict":
            notes.append("the URL's sslaccept is unknown and was read as strict, as Prisma does")
        if mode not in ("require", *VERIFYING):
            # libpq cannot verify only where the server offers TLS, and to verify nothing would not be strict.
            notes.append(
                "the URL's sslaccept=strict was read with sslmode=verify-full, so a server without TLS is refused"
            )
        return {"sslmode": "verify-full", "sslrootcert": _absolute(certificate) or "system"}
    if mode in VERIFYING:
        return {"sslmode": mode, **({"sslrootcert": _absolute(certificate)} if certificate else {})}
    if certificate:
        # libpq would verify as soon as a root certificate is named; Prisma does only with sslaccept=strict.
        notes.append(
            "the URL's sslcert was left out: without sslaccept=strict Prisma does not verify the server either"
        )
    return {"sslmode": mode} if mode else {}


def _absolute(certificate: str) -> str:
    if certificate and certificate != "system" and not certificate.startswith("/"):
        raise PrismaError(
            "The database URL names the server's certificate (sslcert) by a relative path, which Prisma resolves from "
            "the folder of the schema. Give its absolute path on the host that runs this task."
        )
    return certificate


# As the package dotenv reads a line; a quoted value may hold line breaks.
_LINE = re.compile(
    r"""^\s*(?:export\s+)?([\w.-]+)(?:\s*=\s*?|:\s+?)"""
    r"""(\s*'(?:\\'|[^'])*'|\s*"(?:\\"|[^"])*"|\s*`(?:\\`|[^`])*`|[^#\r\n]+)?\s*(?:#.*)?$""",
    re.MULTILINE | re.ASCII,
)
_QUOTED = re.compile(r"""^(['"`])(.*)\1$""", re.MULTILINE | re.DOTALL)
# Prisma replaces ${NAME} alone, Compose $NAME and defaults as well.
_PRISMA_REFERENCE = re.compile(r"(\\)?\$\{([A-Za-z0-9_]+)\}")
_COMPOSE_REFERENCE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:?)-([^}]*))?\})", re.ASCII)
_COMPOSE_ESCAPE = re.compile(r"\\([\\\"nrt])")


class _Undefined(Exception):
    """A reference to a variable that the file does not define."""


def read_env(text: str, name: str, source: str) -> str:
    """The value of ``name`` in an ``.env`` file; the last line of a name wins.

    Prisma and Docker Compose read some values differently, and the application may have its URL from either: such a
    value is refused.
    """
    if name not in _prisma_values(text) and _env_file.find(text, name) is None:
        raise PrismaError(f"{source} has no line {name}=... . Name the variable that holds the URL with env_variable.")
    entry = _env_file.find(text, name)
    place = f"{name} in {source}" + (f", line {entry.line}," if entry else "")
    try:
        readings = {_read_as_prisma(text, name), _read_as_compose(text, name)}
    except _Undefined:
        # Its name may be a part of a password with a $ in it.
        raise PrismaError(
            f"{place} refers with $ to a variable that the file does not define. Define it there before this line; a $ "
            "that belongs to the password is written %24."
        ) from None
    # A reference that one of the two leaves as it stands is the other's.
    readings = {value for value in readings if "${" not in value} or readings
    if len(readings) > 1:
        raise PrismaError(
            f"{place} is not the same to Prisma as to Docker Compose, which differ about # $ \\ and quotation marks. "
            "Percent-encode them in the password (%23 %24 %5C %22 %27 %60), or write the URL inside double quotes."
        )
    value = readings.pop()
    if not value:
        raise PrismaError(f"{name} is empty in {source}.")
    return value


def defines(text: str, name: str) -> bool:
    """Whether an ``.env`` file gives ``name`` a value."""
    entry = _env_file.find(text, name)
    return bool(_prisma_values(text).get(name) or entry and entry.value)


def _prisma_values(text: str) -> dict[str, str]:
    """Every value as dotenv reads it, before references are replaced."""
    values = {}
    for match in _LINE.finditer(text.lstrip("\ufeff")):
        raw = (match[2] or "").strip()
        value = _QUOTED.sub(lambda quoted: quoted[2], raw)
        if raw[:1] == '"':
            value = value.replace("\\n", "\n").replace("\\r", "\r")
        values[match[1]] = value
    return values


def _read_as_prisma(text: str, name: str) -> str:
    values = _prisma_values(text)

    def expand(key: str, seen: tuple[str, ...]) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[1]:
                return match[0][1:]
            return expand(match[2], (*seen, key))

        if key not in values or key in seen:
            raise _Undefined
        return _PRISMA_REFERENCE.sub(replace, values[key])

    return expand(name, ())


def _read_as_compose(text: str, name: str) -> str:
    def expand(key: str, seen: tuple[str, ...]) -> str:
        def replace(match: re.Match[str]) -> str:
            other = match[2] or match[3]
            if not other:
                return "$"
            try:
                value = expand(other, (*seen, key))
            except _Undefined:
                if match[5] is None:
                    raise
                return match[5]
            # With a colon the default also stands for an empty value.
            return match[5] if match[4] and not value else value

        entry = _env_file.find(text, key)
        if entry is None or key in seen:
            raise _Undefined
        quote = text[entry.start - 1 : entry.start]
        if quote == "'" and text[entry.end : entry.end + 1] == quote:
            return entry.value.replace("\\'", "'")
        value = _COMPOSE_REFERENCE.sub(replace, entry.value)
        if quote == '"' and text[entry.end : entry.end + 1] == quote:
            return _COMPOSE_ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), value)
        return value

    return expand(name, ())


_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
