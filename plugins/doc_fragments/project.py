# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of every module that works on a Compose project."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  project_dir:
    description: The directory of the Compose project, on the host.
    type: path
    required: true
  compose_files:
    description: The compose files, relative to O(project_dir). Without any, those that Compose itself looks for.
    type: list
    elements: path
    default: []
  project_name:
    description: The name of the Compose project. Without one, what Compose makes of the files and the directory.
    type: str
    default: ""
"""
