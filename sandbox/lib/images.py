"""The images of the sandbox: one Debian base, Node on it, the hosts on that, and the services beside."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from .config import CHECKOUT, IMAGES, PREFIX, container_name
from .machine import apt_install
from .shell import in_parallel, run, say, step

BASE = "debian:trixie-slim"
BASE_LABEL = "connectin.sandbox=base"
# The newest pglast the collection is tested with; hosts read migration scripts with it.
PGLAST = "pglast==8.8"


def image_name(name: str) -> str:
    return container_name(name)


def ensure_images() -> None:
    """All images exist and are made of what the checkout holds now."""
    _ensure_base()
    in_parallel([_ensure_node_and_host, lambda: _ensure_image("services")])
    # The images that had the names before; while one is built, it has no name either.
    run(["docker", "image", "prune", "--force", "--filter", f"label=connectin.sandbox={PREFIX}"])


def image_label(reference: str, label: str) -> str:
    """The label's value, '' when the image or the label is missing."""
    found = run(["docker", "image", "inspect", reference], check=False)
    if found.returncode != 0:
        return ""
    labels = json.loads(found.stdout)[0]["Config"].get("Labels") or {}
    return str(labels.get(label, ""))


def _ensure_base() -> None:
    if run(["docker", "image", "inspect", BASE], check=False).returncode == 0:
        return
    with step(f"base image {BASE}") as told:
        # With a registry in reach this is the quickest way; without one the answer must not take long.
        if run(["docker", "pull", "--quiet", BASE], check=False, timeout=90).returncode == 0:
            told.note = "pulled"
            return
        told.note = "no registry in reach: made with mmdebstrap"
        if shutil.which("mmdebstrap") is None:
            apt_install(["mmdebstrap"], f"{BASE} cannot be pulled here, so it is made from Debian packages")
        _bootstrap_base()


def _bootstrap_base() -> None:
    with tempfile.TemporaryDirectory(prefix="sandbox-base-") as folder:
        archive = str(Path(folder) / "base.tar")
        # Without manuals and documents, as Debian's own slim images are; a sandbox needs no fsync per package.
        options = [
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=force-unsafe-io",
            '--aptopt=Acquire::Languages "none"',
        ]
        run(["mmdebstrap", "--variant=minbase", *options, "--include=ca-certificates", "trixie", archive])
        run(["docker", "import", "--change", f"LABEL {BASE_LABEL}", "--change", 'CMD ["bash"]', archive, BASE])


def _ensure_node_and_host() -> None:
    # The hosts stand on the Node image: the project's smoke tests run there with npm.
    _ensure_image("node")
    _ensure_image("host", _fetch_wheels)


def _ensure_image(name: str, prepare: object = None) -> None:
    source = IMAGES / name
    base = BASE if name != "host" else image_name("node")
    digest = _digest(source) + _image_id(base)[:20]
    if image_label(image_name(name), "connectin.made-of") == digest:
        return
    with step(f"image {image_name(name)}") as told, tempfile.TemporaryDirectory(prefix="sandbox-image-") as folder:
        context = Path(folder) / name
        shutil.copytree(source, context)
        if callable(prepare):
            told.note = prepare(context)
        labels = ["--label", f"connectin.made-of={digest}", "--label", f"connectin.sandbox={PREFIX}"]
        arguments = [*labels, "--build-arg", f"BASE={base}", "--tag", image_name(name)]
        run(["docker", "build", *arguments, str(context)], env=_builder())


def _builder() -> dict[str, str]:
    """The engine's own builder where BuildKit's client is not installed; nothing is installed for it."""
    return {} if run(["docker", "buildx", "version"], check=False).returncode == 0 else {"DOCKER_BUILDKIT": "0"}


def _fetch_wheels(context: Path) -> str:
    """Puts the SQL parser into the build context; hosts without it count nothing as additive, so that is no error."""
    folder = context / "wheels"
    for python in (str(CHECKOUT / ".venv" / "bin" / "python"), sys.executable, "python3"):
        command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        fetched = run([*command, "--python-version", "3.13", "--dest", str(folder), PGLAST], check=False, timeout=180)
        if fetched.returncode == 0:
            return f"with {PGLAST}"
    say(f"        {PGLAST} could not be downloaded with pip: the hosts go without it and keep no migration as additive")
    return "without pglast"


def _digest(folder: Path) -> str:
    content = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()


def _image_id(reference: str) -> str:
    return run(["docker", "image", "inspect", "--format", "{{.Id}}", reference]).stdout.strip().replace("sha256:", "")


def remove_images() -> None:
    """The sandbox's images; the base too when it was made here and nothing else stands on it."""
    for name in ("host", "node", "services"):
        run(["docker", "image", "rm", "--force", image_name(name)], check=False)
    key, value = BASE_LABEL.split("=")
    labelled = run(["docker", "image", "ls", "--quiet", "--filter", f"label={key}"]).stdout.split()
    # The images of another checkout may stand on the same base.
    if image_label(BASE, key) == value and len(set(labelled)) == 1:
        run(["docker", "image", "rm", BASE], check=False)
