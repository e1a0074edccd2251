# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a git checkout says: its release, its local changes, and what a tag contains; and how it is moved."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Run = Callable[[list[str]], "tuple[int, str, str]"]


class GitError(Exception):
    """A git command failed; ``kind`` is ``ownership``, ``denied``, ``unreachable``, ``no_repository`` or ``other``.

    ``left`` is None unless a checkout began: then the paths that it wrote and that could not be put back.
    """

    def __init__(self, kind: str, message: str, left: Sequence[str] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.left = left


@dataclass(frozen=True)
class Checkout:
    """The checkout as it stands. ``branch`` is '' on a detached HEAD; ``changed`` are tracked files, from ``top``."""

    top: str
    head: str
    head_tags: tuple[str, ...] = ()
    branch: str = ""
    tags: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a commit contains; ``migrations`` are the names of its migrations, sorted, None without their directory."""

    migrations: tuple[str, ...] | None = None
    scripts: Mapping[str, Any] = field(default_factory=dict)


class Git:
    """One checkout. ``run`` takes git's arguments and returns (rc, stdout, stderr); methods raise GitError."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def checkout(self) -> Checkout:
        """Everything about HEAD, the tags and the tracked files that were changed."""
        top = self._output("rev-parse", "--show-toplevel").rstrip("\n")
        rc, head, _err = self._run(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])
        rc_branch, branch, _err = self._run(["symbolic-ref", "--short", "--quiet", "HEAD"])
        listed = self._output(
            "for-each-ref",
            "--sort=-creatordate",
            "--format=%(refname:strip=2)%00%(objectname)%00%(*objectname)",
            "refs/tags",
        )
        tags = [line.split("\0") for line in listed.splitlines()]
        head = head.strip() if rc == 0 else ""
        return Checkout(
            top=top,
            head=head,
            head_tags=tuple(name for name, commit, peeled in tags if head and head in (commit, peeled)),
            branch=branch.strip() if rc_branch == 0 else "",
            tags=tuple(name for name, _commit, _peeled in tags),
            changed=changed_paths(self._output("status", "--porcelain", "-z", "--untracked-files=no")),
        )

    def commit_of(self, tag: str) -> str:
        """The commit of a local tag, '' when there is none."""
        rc, out, _err = self._run(["rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}"])
        return out.strip() if rc == 0 else ""

    def branch_commit(self, branch: str) -> str:
        """The commit that a local branch points to, '' when there is no such branch."""
        rc, out, _err = self._run(["rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}"])
        return out.strip() if rc == 0 else ""

    def has_commit(self, commit: str) -> bool:
        """Whether a commit is there."""
        return self._run(["cat-file", "-e", f"{commit}^{{commit}}"])[0] == 0

    def go_to(self, where: str, detach: bool, discard: Sequence[str] = ()) -> None:
        """Put the tracked files in ``discard`` (from the top) back, then check out a branch or, detached, a commit."""
        if discard:
            self._output("checkout", "--quiet", "HEAD", "--", *(f":(top,literal){path}" for path in discard))
        self._output("checkout", "--quiet", *(["--detach"] if detach else []), where, "--")

    def advance(self, found: Checkout, commit: str, discard: Sequence[str] = ()) -> None:
        """As go_to() a commit; where git fails midway (a full disk), put back what it began before GitError is raised.

        ``found`` is the checkout as it stands.
        """
        listed = (
            self._output("diff", "--name-only", "-z", "--no-renames", "--diff-filter=A", found.head, commit)
            if found.head
            else ""
        )
        # A file that is ignored now may lie where the commit has one: git replaces it, and nobody can bring it back.
        new = [path for path in listed.split("\0") if path and not os.path.lexists(os.path.join(found.top, path))]
        try:
            self.go_to(commit, detach=True, discard=discard)
        except GitError as error:
            raise GitError(error.kind, str(error), left=self._go_back(found, new)) from error

    def _go_back(self, found: Checkout, new: Sequence[str]) -> tuple[str, ...]:
        """Make the tracked files those of HEAD again and remove the new ones; return the paths where that failed."""
        for path in new:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(found.top, path))
                os.removedirs(os.path.dirname(os.path.join(found.top, path)))
        # It may put all files back and only then fail to write its index: what counts is what lies there.
        self._run(["checkout", "--quiet", "--force"])
        rc, porcelain, _err = self._run(["status", "--porcelain", "-z", "--untracked-files=no"])
        there = [path for path in new if os.path.lexists(os.path.join(found.top, path))]
        return (*(changed_paths(porcelain) if rc == 0 else ("what git cannot tell",)), *there)

    def in_the_way(self, commit: str) -> tuple[str, ...]:
        """The untracked files that a checkout of a commit would overwrite, which git refuses to do."""
        loose = set(self._output("ls-files", "--others", "--exclude-standard", "-z").split("\0")) - {""}
        if not loose:
            return ()
        return tuple(sorted(loose & set(self._output("ls-tree", "-r", "-z", "--name-only", commit).split("\0"))))

    def contents(self, commit: str, migrations_path: str) -> Contents:
        """The migrations and the npm scripts of a commit; '' as ``migrations_path`` asks for no migrations."""
        migrations = None
        if migrations_path:
            tree = self._output("ls-tree", "-z", commit, f"{migrations_path.rstrip('/')}/")
            # A directory that is not there must not read as a release without migrations: all would be taken down.
            migrations = migration_names(tree) if tree else None
        rc, package, _err = self._run(["show", f"{commit}:./package.json"])
        return Contents(migrations, npm_scripts(package) if rc == 0 else {})

    def setting(self, name: str) -> str:
        """A value of git's configuration, '' when it is not set."""
        rc, out, _err = self._run(["config", "--get", name])
        return out.strip() if rc == 0 else ""

    def remote_commit(self, tag: str) -> str:
        """The commit that origin has for a tag, '' when it has none."""
        return remote_commit(
            self._output("ls-remote", "--tags", "origin", f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}"), tag
        )

    def _output(self, *args: str) -> str:
        rc, out, err = self._run(list(args))
        if rc != 0:
            raise GitError(error_kind(err), first_lines(err) or f"git {args[0]} ended with {rc}")
        return out


def foreign(changed: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Which changed tracked files hold something else than what is known.

    ``changed`` is the hash by path, '' for a file that is gone; ``known`` are hashes.
    """
    return sorted(path for path, sha256 in changed.items() if not sha256 or sha256 not in known)


def changed_paths(porcelain: str) -> tuple[str, ...]:
    """The paths in ``git status --porcelain -z``; of a renamed file the new one, then the old one."""
    fields = porcelain.split("\0")
    paths = []
    position = 0
    while position < len(fields) and fields[position]:
        status, path = fields[position][:2], fields[position][3:]
        paths.append(path)
        if status[0] in "RC":
            position += 1
            paths.append(fields[position])
        position += 1
    return tuple(paths)


def migration_names(tree: str) -> tuple[str, ...]:
    """The directories in the output of ``git ls-tree -z``: Prisma's migrations are directories, its lock is a file."""
    names = []
    for entry in tree.split("\0"):
        meta, _tab, path = entry.partition("\t")
        if " tree " in f" {meta} ":
            names.append(path.rsplit("/", 1)[-1])
    return tuple(sorted(names))


def remote_commit(listing: str, tag: str) -> str:
    """The commit in the output of ``git ls-remote``; an annotated tag is followed to the commit that it names."""
    refs = dict(reversed(line.split("\t", 1)) for line in listing.splitlines() if "\t" in line)
    return refs.get(f"refs/tags/{tag}^{{}}") or refs.get(f"refs/tags/{tag}") or ""


def npm_scripts(package: str) -> dict[str, Any]:
    """The scripts of a package.json, {} when it has none or is no JSON."""
    try:
        scripts = json.loads(package).get("scripts")
    except (ValueError, AttributeError):
        return {}
    return scripts if isinstance(scripts, dict) else {}


def error_kind(stderr: str) -> str:
    """What kind of failure git's messages tell of. They are read in the C locale."""
    text = stderr.lower()
    if "dubious ownership" in text or "safe.directory" in text:
        return "ownership"
    if "not a git repository" in text:
        return "no_repository"
    denied = (
        "permission denied (",
        "authentication failed",
        "could not read username",
        "could not read password",
        "terminal prompts disabled",
        "host key verification failed",
        "returned error: 401",
        "returned error: 403",
        "access denied",
        "repository not found",
    )
    if any(sign in text for sign in denied):
        return "denied"
    unreachable = (
        "could not resolve",
        "connection refused",
        "connection timed out",
        "connection reset",
        "no route to host",
        "network is unreachable",
        "failed to connect",
        "unable to connect",
        "couldn't connect",
        "operation timed out",
        "does not appear to be a git repository",
        "could not read from remote repository",
        "unable to access",
        "no such remote",
    )
    return "unreachable" if any(sign in text for sign in unreachable) else "other"


def first_lines(stderr: str, limit: int = 2) -> str:
    """The first lines that say something, without git's prefixes, on one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return "; ".join(line.split("fatal: ", 1)[-1] for line in lines[:limit])
