# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prisma's connection URL read as libpq parameters. Pure: no file, no network.

Prisma and libpq spell the same URL and mean different things: libpq refuses ``schema`` and ``connection_limit``, and
``sslcert`` is the server's certificate for Prisma and the client's for libpq.
No message of this module holds any part of the URL that could be a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

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
PASSED_ON = frozenset(("channel_binding", "options"))
SSL_MODES = frozenset(("disable", "allow", "prefer", "require", "verify-ca", "verify-full"))


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


def parse(url: str, resolve: Mapping[str, str] | None = None) -> Target:
    """Translate a Prisma URL. ``resolve`` gives addresses of host names, as curl's ``--resolve`` does."""
    url = url.strip()
    scheme = url.split(":", 1)[0].lower() if ":" in url else ""
    if scheme in ("prisma", "prisma+postgres"):
        raise PrismaError(
            f"The database URL starts with {scheme}://, which is Prisma's own proxy and no PostgreSQL server. "
            "Give the direct URL (postgresql://...), the one that `prisma migrate deploy` uses as directUrl."
        )
    if scheme not in ("postgres", "postgresql"):
        raise PrismaError(
            "The database URL is no PostgreSQL URL: it has to start with postgresql:// or postgres://"
            + (f", and starts with {scheme}:" if scheme in ("file", "mysql", "mongodb", "sqlserver", "sqlite") else ".")
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        # The reason would quote a part of the password when a character of it is not percent-encoded.
        raise PrismaError(
            "The database URL cannot be read: host or port are malformed. A password with one of / ? # @ : in it has "
            "to "
            "be percent-encoded, for example with: python3 -c 'import urllib.parse as u; print(u.quote(input(), "
            'safe=""))\''
        ) from None
    if parts.fragment:
        raise PrismaError("The database URL holds a '#'. In a password it has to be written %23.")

    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    params: dict[str, str] = {"dbname": unquote(parts.path.lstrip("/")) or "postgres"}
    notes: list[str] = []
    if parts.username:
        params["user"] = unquote(parts.username)
    if parts.password:
        params["password"] = unquote(parts.password)
    host = unquote(query.pop("host", "") or host)
    if host:
        params["host"] = host
        if host in (resolve or {}):
            params["hostaddr"] = str(resolve[host])
    if port:
        params["port"] = str(port)

    schema = query.pop("schema", "")
    pgbouncer = query.pop("pgbouncer", "").lower() == "true"
    # The modules name themselves and have a timeout of their own.
    query.pop("application_name", None)
    query.pop("connect_timeout", None)
    params.update(_tls(query, notes))
    for key, value in query.items():
        if key in PASSED_ON:
            params[key] = value
        elif key not in PRISMA_ONLY:
            notes.append(f"the URL's parameter {key} is unknown to Prisma and was left out")
    return Target(params=params, schema=schema, pgbouncer=pgbouncer, notes=tuple(notes))


def _tls(query: dict[str, str], notes: list[str]) -> dict[str, str]:
    """Prisma's TLS parameters as libpq's; takes them out of ``query``."""
    mode = query.pop("sslmode", "")
    certificate = query.pop("sslcert", "")
    strict = query.pop("sslaccept", "") == "strict"
    query.pop("sslpassword", None)
    if query.pop("sslidentity", ""):
        raise PrismaError(
            "The database URL names a client certificate (sslidentity) in PKCS#12, which libpq does not read. "
            "Convert it "
            "with `openssl pkcs12`, put it into ~/.postgresql/postgresql.crt and .key of the user that runs the "
            "module, "
            "and give the URL without sslidentity."
        )
    if mode and mode not in SSL_MODES:
        # Prisma takes an unknown mode for prefer.
        notes.append("the URL's sslmode is unknown and was read as prefer, as Prisma does")
        mode = "prefer"
    if strict and mode in ("require", "verify-ca", "verify-full"):
        return {"sslmode": "verify-full", **({"sslrootcert": certificate} if certificate else {})}
    if certificate and mode in ("verify-ca", "verify-full"):
        return {"sslmode": mode, "sslrootcert": certificate}
    if certificate:
        # libpq would verify as soon as a root certificate is named; Prisma does only with sslaccept=strict.
        notes.append(
            "the URL's sslcert was left out: without sslaccept=strict Prisma does not verify the server either"
        )
    return {"sslmode": mode} if mode else {}


_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*?)\s*$")
_REFERENCE = re.compile(r"\\\$|\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))")


def read_env(text: str, name: str, source: str) -> str:
    """The value of ``name`` in an ``.env`` file, as dotenv and Compose read it; the last line of a name wins."""
    values: dict[str, tuple[str, bool]] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            values[match[1]] = _unquote(match[2])
    if name not in values:
        raise PrismaError(f"{source} has no line {name}=... . Name the variable that holds the URL with env_variable.")
    value = _expand(name, values, source, ())
    if not value:
        raise PrismaError(f"{name} is empty in {source}.")
    return value


def _unquote(raw: str) -> tuple[str, bool]:
    """A value without its quotes, and whether ``$NAME`` in it is replaced."""
    if raw[:1] in ("'", '"'):
        end = raw.find(raw[0], 1)
        if end > 0:
            return raw[1:end], raw[0] == '"'
    return re.sub(r"\s+#.*$", "", raw), True


def _expand(name: str, values: Mapping[str, tuple[str, bool]], source: str, seen: tuple[str, ...]) -> str:
    value, expands = values[name]
    if not expands:
        return value

    def replace(match: re.Match[str]) -> str:
        if match[0] == "\\$":
            return "$"
        other = match[1] or match[3]
        if other in values and other not in (*seen, name):
            return _expand(other, values, source, (*seen, name)) or (match[2] or "")
        if match[2] is not None:
            return match[2]
        raise PrismaError(
            f"{name} in {source} refers to the variable {other}, which the file does not define. "
            "A literal $ is written inside single quotes."
        )

    return _REFERENCE.sub(replace, value)
