# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a project of Prisma 5, 6 or 7 keeps its migrations, and what `prisma migrate deploy` takes its URL from.

Pure: texts in, no file read. A URL that stands in a file is a secret, and in no message.
"""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils._prisma_config import Config, Url
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_tokens import Scanner, Token, closing

POSTGRESQL = "postgresql"
# Prisma reads `postgres` in the datasource as the same.
_ALIASES = {"postgres": POSTGRESQL}


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
        tokens = Scanner(text, file, psl=True).tokens()
        for index, token in enumerate(tokens):
            here = [each.text for each in tokens[index : index + 3]]
            if here[:1] == ["datasource"] and here[2:] == ["{"]:
                end = closing(tokens, index + 2)
                found.append(_datasource(tokens[index + 3 : end], Schema(file, token.line)))
    if len(found) > 1:
        places = " and ".join(f"{each.file}, line {each.line}" for each in found)
        raise PrismaError(f"The schema has more than one datasource, which Prisma refuses too: {places}. Keep one.")
    return found[0] if found else Schema()


def _datasource(tokens: Sequence[Token], empty: Schema) -> Schema:
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


def _psl_url(tokens: Sequence[Token], file: str) -> Url:
    place = f"{file}, line {tokens[0].line}"
    if [each.kind for each in tokens] == ["string"]:
        return Url(place, literal=tokens[0].text)
    if [each.text for each in tokens[:2]] == ["env", "("] and len(tokens) == 4 and tokens[2].kind == "string":
        return Url(place, (tokens[2].text,))
    return Url(
        place, problem=f'{place}: the URL is neither env("...") nor a string. Name its variable with env_variable.'
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
