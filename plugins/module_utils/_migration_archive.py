# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The archive of migrations: a folder for each, with its scripts and their checksums, whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from ansible_collections.connectin.rollback.plugins.module_utils import _state_dir
from ansible_collections.connectin.rollback.plugins.module_utils._migration_files import SUMS, sums
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_history import Files


def scripts(files: Files) -> dict[str, bytes]:
    """What is kept of a migration: {file: content}, with the list of checksums."""
    every = {"migration.sql": files.migration_sql, "down.sql": files.down_sql, "verify.sql": files.verify_sql}
    content = {name: script for name, script in every.items() if script is not None}
    return {**content, SUMS: sums(content).encode()}


def differs(archive: str, name: str, content: Mapping[str, bytes]) -> bool:
    """Whether the archive holds something else than this, or nothing, under the migration's name."""
    folder = os.path.join(archive, name)
    present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return present != set(content) or any(
        _state_dir.read_bytes(os.path.join(folder, file)) != script for file, script in content.items()
    )


def write(archive: str, name: str, content: Mapping[str, bytes]) -> None:
    """Put a migration into the archive in place of what is there. The caller holds ``_state_dir.exclusive``."""
    folder, fresh, old = (os.path.join(archive, each) for each in (name, f".{name}.new", f".{name}.old"))
    with _state_dir.told("write", folder):
        _removed(fresh)
        _state_dir.make_directory(fresh)
        for file, script in content.items():
            _state_dir.write_atomic(os.path.join(fresh, file), script)
        if os.path.isdir(folder):
            _removed(old)
            os.rename(folder, old)
        os.rename(fresh, folder)
        _state_dir.sync_directory(archive)
        _removed(old)


def mend(archive: str) -> None:
    """Put back what a run that was killed had moved aside. The caller holds ``_state_dir.exclusive``."""
    with _state_dir.told("mend", archive):
        for entry in os.listdir(archive):
            if entry.startswith(".") and entry.endswith(".old"):
                folder = os.path.join(archive, entry[1 : -len(".old")])
                if not os.path.isdir(folder):
                    os.rename(os.path.join(archive, entry), folder)


def _removed(folder: str) -> None:
    if os.path.isdir(folder):
        shutil.rmtree(folder)
