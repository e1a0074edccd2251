# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which images are kept from being pruned, and by which containers.

``docker image prune -a`` removes every image that no container uses, whatever its tags. So each image that a rollback
may have to go back to gets a container that is created and never started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _image_reference

RELEASE_LABEL = "connectin.rollback.hold"
SERVICE_LABEL = "connectin.rollback.service"
# An image that Compose built carries these, and a container inherits them: Compose would take it for a replica.
_COMPOSE_LABELS = "com.docker.compose."


@dataclass(frozen=True)
class Wanted:
    """An image to hold: what the ledger says of one service in one release; a fact that is not known is ''."""

    service: str
    release: str
    image: str = ""
    digest: str = ""
    image_id: str = ""

    @property
    def name(self) -> str:
        """The name of the container that holds it."""
        return f"connectin-rollback-hold-{self.service}-{self.release}"


@dataclass(frozen=True)
class Holder:
    """A container that holds an image: by its labels for which service and release, and the id of that image."""

    container: str
    service: str
    release: str
    image_id: str
    image: str = ""


@dataclass(frozen=True)
class Found:
    """The local image of a ``wanted``: the reference that a container is made from, and its id."""

    wanted: Wanted
    reference: str
    image_id: str


@dataclass(frozen=True)
class Decision:
    """What to do: holders to remove, then images to make holders for; ``kept`` have one, ``missing`` are not local."""

    remove: tuple[Holder, ...] = ()
    create: tuple[Found, ...] = ()
    kept: tuple[Found, ...] = ()
    missing: tuple[Wanted, ...] = ()


def wanted(releases: Iterable[Mapping[str, Any]], limit: int) -> list[Wanted]:
    """The images of the newest ``limit`` good releases; ``releases`` as _ledger.fold gives them, newest first."""
    good = [release for release in releases if release["verdict"] == "good"][: max(0, limit)]
    return [
        Wanted(
            service,
            release["release"],
            **{fact: str(facts.get(fact) or "") for fact in ("image", "digest", "image_id")},
        )
        for release in good
        for service, facts in sorted(release["services"].items())
    ]


def find(asked: Wanted, image: Callable[[str], Mapping[str, Any] | None]) -> Found | None:
    """The local image of a service in a release, None when it is not there. ``image`` inspects a reference.

    What the ledger proves counts: under a tag that was moved lies another release. The tag is still what the container
    is made from where it does lead there, since that also keeps the tag.
    """
    tagged = image(asked.image) if asked.image else None
    parsed = _image_reference.parse(asked.image)
    proofs = [asked.image_id, str(parsed.with_digest(asked.digest)) if asked.image and asked.digest else ""]
    if not any(proofs):
        return Found(asked, asked.image, str(tagged["Id"])) if tagged else None
    for proof in filter(None, proofs):
        found = image(proof)
        if found:
            same = bool(tagged) and tagged["Id"] == found["Id"]
            return Found(asked, asked.image if same else str(found["Id"]), str(found["Id"]))
    return None


def decide(asked: Sequence[Wanted], found: Mapping[Wanted, Found | None], holders: Iterable[Holder]) -> Decision:
    """What becomes of the holders that are there, so that exactly what was ``found`` is held."""
    needed = {(one.service, one.release): found.get(one) for one in asked}
    kept, remove = {}, []
    for holder in holders:
        key = (holder.service, holder.release)
        local = needed.get(key)
        if local and local.image_id == holder.image_id and key not in kept:
            kept[key] = local
        else:
            remove.append(holder)
    return Decision(
        remove=tuple(remove),
        create=tuple(local for key, local in needed.items() if local and key not in kept),
        kept=tuple(kept.values()),
        missing=tuple(one for one in asked if found.get(one) is None),
    )


def holder(container: Mapping[str, Any]) -> Holder:
    """A container as inspected, read as the holder that its labels call it."""
    config = container.get("Config") or {}
    labels = config.get("Labels") or {}
    return Holder(
        container=str(container.get("Id") or ""),
        service=str(labels.get(SERVICE_LABEL) or ""),
        release=str(labels.get(RELEASE_LABEL) or ""),
        image_id=str(container.get("Image") or ""),
        image=str(config.get("Image") or ""),
    )


def container(found: Found, image: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine is asked to create: a container that runs nothing of its ``image`` (as inspected), ever."""
    config = image.get("Config") or {}
    inherited = {name: "" for name in config.get("Labels") or {} if name.startswith(_COMPOSE_LABELS)}
    return {
        "Image": found.reference,
        # With an entrypoint of its own the command of the image is not taken either.
        "Entrypoint": ["true"],
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {**inherited, RELEASE_LABEL: found.wanted.release, SERVICE_LABEL: found.wanted.service},
        "NetworkDisabled": True,
        "HostConfig": {
            "NetworkMode": "none",
            "RestartPolicy": {"Name": "no"},
            # Where something is mounted, the engine makes no anonymous volume.
            "Mounts": [{"Type": "tmpfs", "Target": path} for path in sorted(config.get("Volumes") or {})],
        },
    }
