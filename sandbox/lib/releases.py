"""The releases of the application: a git repository made of the folders in app/, and their images in the registry."""

from __future__ import annotations

import datetime
import hashlib
import io
import tarfile

from .config import APP, RELEASES, State, container_name
from .containers import in_container, send
from .services import registry_digest
from .shell import step

SERVICES = ("api", "web")
# Fixed, so that the same sources give the same commits on every machine.
DATES = {
    "v1.0.0": "2025-01-07T10:00:00+00:00",
    "v1.1.0": "2025-02-04T10:00:00+00:00",
    "v1.2.0": "2025-03-05T10:00:00+00:00",
    "v1.3.0": "2025-04-02T10:00:00+00:00",
}
MESSAGES = {
    "v1.0.0": "Posts",
    "v1.1.0": "Posts have an author",
    "v1.2.0": "Reactions; a post's text is called content",
    "v1.3.0": "Ranking of the feed",
}


def tree(release: str) -> dict[str, bytes]:
    """The files of a release: path -> content. A folder of app/ holds what differs from the release before."""
    files: dict[str, bytes] = {}
    for folder in RELEASES[: RELEASES.index(release) + 1]:
        for path in sorted((APP / folder).rglob("*")):
            relative = path.relative_to(APP / folder)
            if path.is_file() and "node_modules" not in relative.parts:
                files[str(relative)] = path.read_bytes()
    return {path: content.replace(b"@RELEASE@", release.encode()) for path, content in files.items()}


def sources_digest() -> str:
    content = hashlib.sha256()
    for release in RELEASES:
        content.update(f"{release} {DATES[release]} {MESSAGES[release]}\n".encode())
        for path, data in tree(release).items():
            content.update(path.encode() + b"\0" + data + b"\0")
    # the way the repository is made counts as well
    content.update(_repository_script("").encode())
    return content.hexdigest()


def ensure_repository(state: State) -> None:
    """The bare repository on the build machine holds one tag per release; `state.commits` says which commits."""
    digest = sources_digest()
    there = in_container("ci", "cat /srv/git/connectin.git/sandbox-sources 2>/dev/null || true").strip()
    if there == digest == state.app_digest:
        return
    with step("git repository with one tag per release") as told:
        send(["docker", "exec", "-i", container_name("ci"), "tar", "-C", "/tmp", "-x"], _trees())
        commits = in_container("ci", _repository_script(digest)).split()
        state.commits = dict(zip(RELEASES, commits))
        state.app_digest = digest
        state.save()
        told.note = ", ".join(f"{release} {commit[:7]}" for release, commit in state.commits.items())


def _trees() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for release in RELEASES:
            # A time of its own per release: git takes a file of the same size and time for unchanged.
            modified = datetime.datetime.fromisoformat(DATES[release]).timestamp()
            for path, content in tree(release).items():
                entry = tarfile.TarInfo(f"trees/{release}/{path}")
                entry.size = len(content)
                entry.mtime = int(modified)
                entry.mode = 0o644
                tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def _repository_script(digest: str) -> str:
    """Shell text that commits the trees one after the other, and prints the commits."""
    commits = "\n".join(
        f"""
        find . -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {{}} +
        cp -a /tmp/trees/{release}/. .
        export GIT_AUTHOR_DATE='{DATES[release]}' GIT_COMMITTER_DATE='{DATES[release]}'
        git add --all --force
        git commit --quiet --message "{MESSAGES[release]}"
        git diff --quiet HEAD
        git tag --annotate --message 'Release {release}' {release}
        git rev-parse '{release}^{{commit}}'
        """
        for release in RELEASES
    )
    return f"""
        export GIT_AUTHOR_NAME=ConnectIn GIT_AUTHOR_EMAIL=releases@connectin.invalid
        export GIT_COMMITTER_NAME=ConnectIn GIT_COMMITTER_EMAIL=releases@connectin.invalid
        rm -rf /tmp/work && mkdir /tmp/work && cd /tmp/work
        git init --quiet --initial-branch=main .
        {commits}
        rm -rf /srv/git/connectin.git.new
        git clone --quiet --bare . /srv/git/connectin.git.new
        echo '{digest}' >/srv/git/connectin.git.new/sandbox-sources
        chown -R git:git /srv/git/connectin.git.new
        rm -rf /srv/git/connectin.git
        mv /srv/git/connectin.git.new /srv/git/connectin.git
        rm -rf /tmp/trees /tmp/work
    """


def build(state: State, release: str) -> None:
    """The release's images are in the registry, built from its tag on the build machine."""
    stamp = f"{release} {state.commits[release]} {state.registry}"
    if stamp in state.built:
        return
    with step(f"build and push {release}"):
        in_container("ci", _build_script(state, release))
    for service in SERVICES:
        state.digests[f"connectin/{service}:{release}"] = registry_digest(state, f"connectin/{service}", release)
    state.built = [line for line in state.built if not line.startswith(f"{release} ")] + [stamp]
    state.save()


def push_again(state: State) -> None:
    """Gives back to the registry what a drill deleted from it or moved to another image."""
    for release in RELEASES:
        names = [f"connectin/{service}" for service in SERVICES]
        if all(registry_digest(state, name, release) == state.digests.get(f"{name}:{release}") for name in names):
            continue
        with step(f"push {release} again, which is not in the registry as it was"):
            in_container("ci", _build_script(state, release))


def _build_script(state: State, release: str) -> str:
    """Shell text that builds from the tag, out of the cache where it can, and pushes."""
    return f"""
        folder=/srv/build/{release}
        mkdir -p /srv/build
        rm -rf "$folder"
        git clone --quiet --branch {release} /srv/git/connectin.git "$folder" 2>/dev/null
        cd "$folder"
        export REGISTRY={state.registry} WEB_TAG={release} DATABASE_URL=none
        docker compose build --quiet {" ".join(SERVICES)}
        docker compose push --quiet {" ".join(SERVICES)}
    """
