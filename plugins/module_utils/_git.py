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
            changed=self._changed(),
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

    def go_to(self, found: Checkout, where: str, commit: str, discard: Sequence[str] = ()) -> None:
        """Check out a branch, or detached the commit itself; whole, or not at all.

        ``found`` is the checkout as it stands, ``commit`` what ``where`` names, ``discard`` are tracked files (from the
        top) that are put back first. Where git fails midway, as on a full disk, what it began is put back before
        GitError is raised.
        """
        new = [path for path in self._added(found, commit) if not os.path.lexists(os.path.join(found.top, path))]
        try:
            if discard:
                self._put_back(discard)
            self._check_out(*(["--detach"] if where == commit else []), where, "--")
        except GitError as error:
            raise GitError(error.kind, str(error), left=self._go_back(found, new)) from error

    def in_the_way(self, found: Checkout, commit: str) -> tuple[str, ...]:
        """The files that no commit tracks now and the other one does. Those that are ignored git would overwrite."""
        return tuple(
            sorted(path for path in self._added(found, commit) if os.path.lexists(os.path.join(found.top, path)))
        )

    def _added(self, found: Checkout, commit: str) -> list[str]:
        """The files, from the top, that a commit has and HEAD has not."""
        if not found.head:
            return self._output("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit).split("\0")[:-1]
        only = ["-r", "--name-only", "--no-renames", "--diff-filter=A"]
        return self._output("diff-tree", *only, "-z", found.head, commit).split("\0")[:-1]

    def _put_back(self, paths: Sequence[str]) -> None:
        self._check_out("HEAD", "--", *(f":(top,literal){path}" for path in paths))

    def _check_out(self, *args: str) -> None:
        """git itself ends well where it could not write a file, and only says so."""
        rc, _out, err = self._run(["checkout", "--quiet", *args])
        problems = "\n".join(line for line in err.splitlines() if line.startswith("error: "))
        if rc != 0 or problems:
            raise GitError(
                error_kind(err), first_lines(problems if rc == 0 else err) or f"git checkout ended with {rc}"
            )

    def _go_back(self, found: Checkout, new: Sequence[str]) -> tuple[str, ...]:
        """Undo what a checkout began, and nothing else; return the paths where that failed.

        Not ``checkout --force``: that also undoes what somebody changed and git was told not to see.
        """
        rc, head, _err = self._run(["rev-parse", "--verify", "--quiet", "HEAD"])
        if found.head and (rc != 0 or head.strip() != found.head):
            back = ["symbolic-ref", "HEAD", f"refs/heads/{found.branch}"]
            self._run(back if found.branch else ["update-ref", "--no-deref", "HEAD", found.head])
            self._run(["reset", "--quiet"])
        for path in new:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(found.top, path))
                os.removedirs(os.path.dirname(os.path.join(found.top, path)))
        with contextlib.suppress(GitError):
            changed = self._changed()
            if changed:
                # It may put all files back and only then fail to write its index: what counts is what lies there.
                self._put_back(changed)
        left = [path for path in new if os.path.lexists(os.path.join(found.top, path))]
        try:
            return (*self._changed(), *left)
        except GitError:
            return ("what git cannot tell", *left)

    def _changed(self) -> tuple[str, ...]:
        return changed_paths(self._output("status", "--porcelain", "-z", "--untracked-files=no"))

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
