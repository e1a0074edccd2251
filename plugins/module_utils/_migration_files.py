# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Folders of migrations, read from disk."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_history import Files

UNREADABLE = {"code": "migrations_denied", "next": "run it with become (-b); see: ls -ld of that path"}


def read(directories: Sequence[str]) -> dict[str, Files]:
    """Each migration's files by its name. The first folder that has its down.sql wins, else the first that has it."""
    found: dict[str, Files] = {}
    for directory in directories:
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except FileNotFoundError:
            # The archive of down scripts is made by the first rollback.
            continue
        except OSError as error:
            raise PrismaError(
                f"Cannot read the folder of migrations {directory}: {error.strerror}.", **UNREADABLE
            ) from None
        for entry in entries:
            # Prisma takes real folders only, no links to them.
            if not entry.is_dir(follow_symlinks=False):
                continue
            migration_sql = _content(os.path.join(entry.path, "migration.sql"))
            down_path = os.path.join(entry.path, "down.sql")
            down_sql = _content(down_path)
            if migration_sql is None and down_sql is None:
                continue
            known = found.get(entry.name)
            if known is None:
                found[entry.name] = Files(entry.path, migration_sql, down_sql, down_path)
            elif known.down_sql is None and down_sql is not None:
                up = known.migration_sql if known.migration_sql is not None else migration_sql
                found[entry.name] = Files(entry.path, up, down_sql, down_path)
            elif known.migration_sql is None and migration_sql is not None:
                found[entry.name] = Files(known.directory, migration_sql, known.down_sql, known.down_path)
    return found


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PrismaError(f"Cannot read {path}: {error.strerror}.", **UNREADABLE) from None
