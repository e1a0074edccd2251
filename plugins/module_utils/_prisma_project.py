# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A project of Prisma on disk, and the modules' options that follow from it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _database_url, _prisma_config
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_layout as layout
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

# A schema of a thousand models has half a megabyte; what is larger is another file, and must not fill this process.
FILE_LIMIT = 4 * 1024 * 1024
ENTRY_LIMIT = 5000
LOCK_FILE = "migration_lock.toml"

# As Prisma tries them.
_EXTENSIONS = (".js", ".ts", ".mjs", ".cjs", ".mts", ".cts")
_CONFIGS = (
    *(base + extension for base in ("prisma7.config", ".config/prisma7") for extension in _EXTENSIONS),
    *(
        base + suffix
        for base in ("prisma.config", ".config/prisma", ".config/prisma.config")
        for suffix in (*_EXTENSIONS, *(f"/index{extension}" for extension in _EXTENSIONS))
    ),
)


def apply(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The module's parameters with what ``project`` says filled in, and remarks for the operator.

    What is given explicitly wins; a module without ``path`` has no need of the migrations. Those of another database
    than PostgreSQL are refused, also where only ``path`` is given.
    """
    filled, notes = dict(params), []
    if params["project"]:
        project = read(params["project"])
        if project.provider:
            layout.require_postgresql(project.provider, project.provider_place)
        if params.get("path") == []:
            if not project.migrations:
                raise PrismaError(project.migrations_problem)
            filled["path"] = [project.migrations]
        if not params["database_url"]:
            filled, notes = _with_url(filled, project)
    for source in filled.get("path") or ():
        _require_postgresql_migrations(source)
    return filled, notes


def read(folder: str) -> layout.Layout:
    """The project in a folder, the one in which `prisma migrate deploy` is run."""
    if not os.path.isdir(folder):
        raise PrismaError(
            f"project {folder} is no folder on the host that runs the task. Give the one in which "
            "`prisma migrate deploy` is run, such as /srv/connectin/apps/api."
        )
    folder = os.path.abspath(folder)
    config_file = next((path for path in _below(folder, _CONFIGS) if os.path.isfile(path)), "")
    config = _prisma_config.read_config(_text(config_file), config_file, folder) if config_file else None
    package = _package(folder)
    version = _installed_version(folder) or package.version
    schema_path = _schema_path(folder, config, "" if layout.major(version) >= 7 else package.schema)
    texts = _schema_texts(schema_path) if schema_path else {}
    return layout.combine(folder, version, config, schema_path, os.path.isdir(schema_path), layout.read_schema(texts))


def _with_url(params: dict[str, Any], project: layout.Layout) -> tuple[dict[str, Any], list[str]]:
    """The parameters with the variable and the file of the URL, or with the URL itself."""
    url = project.url
    if url.literal and not params["env_variable"] and not params["env_file"]:
        advice = (
            f"the database URL stands in {url.place}, where everybody who can read the source code reads the password. "
            "Put it into an environment variable and change it."
        )
        return {**params, "database_url": url.literal}, [advice]
    if params["env_variable"]:
        variables: tuple[str, ...] = (params["env_variable"],)
    elif url.variables:
        variables = url.variables
    else:
        raise PrismaError(url.problem or f"{url.place} holds the URL itself. Name the variable with env_variable.")
    if params["env_file"]:
        texts = {params["env_file"]: _text(params["env_file"])}
    else:
        places = [project.project, os.path.dirname(project.schema), os.path.join(project.project, "prisma")]
        files = dict.fromkeys(os.path.join(place, ".env") for place in places if place)
        texts = {file: _text(file) for file in files if os.path.exists(file)}
    for variable in variables:
        for file, text in texts.items():
            if _database_url.defines(text, variable):
                return {**params, "env_file": file, "env_variable": variable}, []
    says = f"{url.place} takes the URL from {' or '.join(variables)}" if url.place else f"the URL is in {variables[0]}"
    if not texts:
        raise PrismaError(
            f"{says}, and Prisma would read it from {' or '.join(files)}; there is no such file. Give the file that "
            "holds it with env_file, such as the one of the Compose project."
        )
    raise PrismaError(
        f"{says}, which {' and '.join(texts)} {'does' if len(texts) == 1 else 'do'} not define. Give the file that "
        "holds it with env_file, or the variable with env_variable."
    )


def _require_postgresql_migrations(source: str) -> None:
    file = os.path.join(source, LOCK_FILE)
    if os.path.isfile(file):
        layout.require_postgresql(layout.read_lock(_text(file), file), file)


def _below(folder: str, names: tuple[str, ...]) -> list[str]:
    return [os.path.join(folder, name) for name in names]


def _package(folder: str) -> layout.Package:
    file = os.path.join(folder, "package.json")
    return layout.read_package(_text(file), file) if os.path.isfile(file) else layout.Package()


def _installed_version(folder: str) -> str:
    """The version in node_modules, where Node would find it; '' where it is not installed on this host."""
    while True:
        file = os.path.join(folder, "node_modules", "prisma", "package.json")
        if os.path.isfile(file):
            return layout.read_version(_text(file), file)
        if folder == os.path.dirname(folder):
            return ""
        folder = os.path.dirname(folder)


def _schema_path(folder: str, config: layout.Config | None, from_package: str) -> str:
    """The schema's file or folder; '' where there is none, or where the configuration works it out by code."""
    named = ""
    if config and config.schema_problem:
        return ""
    if config and config.schema:
        named, by = config.schema, config.file
    elif from_package:
        named, by = os.path.normpath(os.path.join(folder, from_package)), os.path.join(folder, "package.json")
    if named:
        if not os.path.exists(named):
            raise PrismaError(f"{by} names the schema {named}, which is not there. Restore it from the release.")
        return named
    bases = dict.fromkeys([os.path.dirname(config.file) if config else folder, folder])
    files = (path for base in bases for path in _below(base, ("schema.prisma", "prisma/schema.prisma")))
    found = next(filter(os.path.isfile, files), "")
    # Prisma 5.15 to 6.6 also found this folder by itself.
    default = os.path.join(folder, "prisma", "schema")
    return found or (default if os.path.isdir(default) else "")


def _schema_texts(path: str) -> dict[str, str]:
    """The files of a schema: {path: text}, those of a folder with its subfolders, sorted."""
    if not os.path.isdir(path):
        return {path: _text(path)}
    texts: dict[str, str] = {}
    waiting, seen, entries = [path], set(), 0
    while waiting:
        folder = waiting.pop()
        # A link may lead back up.
        if os.path.realpath(folder) in seen:
            continue
        seen.add(os.path.realpath(folder))
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            raise _unreadable(folder, error) from None
        entries += len(names)
        if entries > ENTRY_LIMIT:
            raise PrismaError(
                f"{path} holds more than {ENTRY_LIMIT} files, so it is no folder of a schema. Give path, env_file and "
                "env_variable instead of project."
            )
        for name in names:
            below = os.path.join(folder, name)
            if os.path.isdir(below):
                waiting.append(below)
            elif name.endswith(".prisma"):
                texts[below] = _text(below)
    return texts


def _text(path: str) -> str:
    """A file's text. Only a plain file is read: a pipe would hang, a device would not end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise PrismaError(f"{path} is no plain file. Restore it from the release.")
            content = handle.read(FILE_LIMIT + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(content) > FILE_LIMIT:
        raise PrismaError(
            f"{path} has more than {FILE_LIMIT // 1024 // 1024} MB, so it is not read. Give path, env_file and "
            "env_variable instead of project."
        )
    return content.decode("utf-8", "surrogateescape")


def _unreadable(path: str, error: OSError) -> PrismaError:
    return PrismaError(
        f"Cannot read {path}: {error.strerror}. It is read on the host where this task runs, as the user that runs it; "
        "become: true is needed for a file of root."
    )
