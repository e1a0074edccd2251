# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Image references: ``registry:5000/team/app:v1@sha256:…`` taken apart and put together."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The grammar of the distribution project, for a tag and for the only digest that registries use.
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

DOCKER_HUB = "docker.io"


@dataclass(frozen=True)
class ImageReference:
    """``repository`` as it was written, registry included; ``tag`` and ``digest`` are '' where none is given."""

    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"

    def with_tag(self, tag: str) -> ImageReference:
        """The same repository at ``tag``; a digest named other content, so it goes."""
        return ImageReference(self.repository, tag)

    def with_digest(self, digest: str) -> ImageReference:
        """The same repository at ``digest`` alone."""
        return ImageReference(self.repository, "", digest)

    @property
    def registry(self) -> str:
        """The registry as ``docker login`` names it: ``docker.io`` where none is written."""
        first, slash, _rest = self.repository.partition("/")
        is_host = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
        return first if is_host else DOCKER_HUB

    @property
    def familiar(self) -> str:
        """The repository as the engine lists it: Docker Hub and its ``library/`` left out."""
        name = self.repository
        for prefix in ("docker.io/", "index.docker.io/"):
            if name.startswith(prefix):
                name = name[len(prefix) :]
        return name[len("library/") :] if name.startswith("library/") else name


def parse(text: str) -> ImageReference:
    """Take a reference apart. Whatever stands behind the last colon of the last path part is the tag."""
    name, _at, digest = text.strip().partition("@")
    head, slash, last = name.rpartition("/")
    base, _colon, tag = last.partition(":")
    return ImageReference(f"{head}{slash}{base}", tag, digest)


def digest_in(repo_digests: list[str], reference: ImageReference) -> str:
    """The digest that an image has in the repository of ``reference``, '' when it was never pulled or pushed there."""
    for known in repo_digests:
        parsed = parse(known)
        if parsed.familiar == reference.familiar:
            return parsed.digest
    return ""
