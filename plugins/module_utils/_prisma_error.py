# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one exception of the Prisma modules, caught once in their ``main()``."""

from __future__ import annotations

from typing import Any


class PrismaError(Exception):
    """A refusal or a failure that the operator is told.

    ``fields`` are returned beside ``msg`` by the module, so that a playbook can decide on them.
    """

    def __init__(self, message: str, /, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields
