# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files of backups: manifests read and written, and the list of what there is."""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _backup as backup
from ansible_collections.connectin.rollback.plugins.module_utils import _backup_programs as programs
from ansible_collections.connectin.rollback.plugins.module_utils import _state_dir
from ansible_collections.connectin.rollback.plugins.module_utils._backup import Manifest
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError


def read(folder: str, kind: str) -> Manifest | None:
    """The manifest of a dump, None when there is none."""
    path = os.path.join(folder, f"{kind}.json")
    text = _state_dir.read_text(path)
    return None if text is None else backup.parse(text, path)


def write(folder: str, manifest: Manifest) -> None:
    _state_dir.write_atomic(os.path.join(folder, f"{manifest.kind}.json"), manifest.as_text().encode())


def require(folder: str, kind: str) -> Manifest:
    """The manifest of a dump that is as it was made."""
    manifest = read(folder, kind)
    path = os.path.join(folder, f"{kind}.dump")
    if manifest is None:
        raise PrismaError(
            f"There is no backup at {path}. List those there are: ansible-playbook restore_backup.yml",
            code="backup_missing",
            next="ansible-playbook restore_backup.yml",
        )
    size, sha256 = programs.checksum(path)
    if (size, sha256) != (manifest.size, manifest.sha256):
        raise backup.damaged(path, manifest, size, sha256)
    return manifest


def listed(folder: str) -> list[dict[str, Any]]:
    """Every backup under a folder, without reading the dumps."""
    found: list[dict[str, Any]] = []
    try:
        entries = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PrismaError(f"Cannot read {folder}: {error.strerror}. Use become: true for a folder of root.") from None
    for name in entries:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            found.append(_one(path, name))
    return found


def _one(path: str, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": name,
        "path": path,
        "at": "",
        "release_from": "",
        "release_to": "",
        "dumps": [],
        "problems": [],
    }
    for kind in (backup.FULL, backup.LOST):
        try:
            manifest = read(path, kind)
        except PrismaError as error:
            entry["problems"].append(error.message)
            continue
        if manifest is None:
            continue
        file = os.path.join(path, manifest.file)
        size = os.path.getsize(file) if os.path.exists(file) else 0
        if size != manifest.size:
            entry["problems"].append(f"{manifest.file} has {size} bytes, not {manifest.size}")
        entry.update(at=entry["at"] or manifest.at, release_from=manifest.release_from, release_to=manifest.release_to)
        entry["dumps"].append(
            {
                "kind": kind,
                "file": file,
                "size": manifest.size,
                "sha256": manifest.sha256,
                "whole": manifest.whole,
                "at": manifest.at,
                "rows": sum(manifest.rows().values()),
            }
        )
    if not entry["dumps"] and not entry["problems"]:
        entry["problems"].append("no dump was finished")
    return entry
