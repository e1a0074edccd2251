# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state directory of a host: private, durable, and safe with several processes at work.

Whatever a function here has written when it returns survives a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import hashlib
import os
import tempfile
from collections.abc import Iterator

# There is nothing in it that another user of the host needs, and copies of .env are.
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

_NEXT = {
    errno.EACCES: "Run the task as a user who may, usually with become: true (-b).",
    errno.EPERM: "Run the task as a user who may, usually with become: true (-b).",
    errno.ENOSPC: "Free some space on this disk (df -h shows it), then run the same command again.",
    errno.EDQUOT: "Free some space within the quota of this user, then run the same command again.",
    errno.EROFS: "The file system is mounted read-only: see dmesg for why, or set rollback_state_dir elsewhere.",
    errno.ENOTDIR: "Something in its path is no directory: move that away, or set rollback_state_dir elsewhere.",
    errno.ENOENT: "Check the path for a misspelling.",
}


class StateDirError(Exception):
    """A file could not be read or written; the text says which, why, and what to do."""


@contextlib.contextmanager
def exclusive(directory: str) -> Iterator[None]:
    """Keep every other process out that asks for this directory; make the directory where it is missing.

    The lock is the kernel's (flock), so it ends with the process, however that ends.
    """
    make_directory(directory)
    with _flock(directory, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def shared(directory: str) -> Iterator[None]:
    """Read while nobody writes. A directory that is not there has nothing to wait for."""
    if not os.path.isdir(directory):
        yield
        return
    with _flock(directory, fcntl.LOCK_SH):
        yield


def make_directory(path: str) -> None:
    """Make a private directory, with its parents, where it is missing; one that is there stays as it is."""
    if os.path.isdir(path):
        return
    with told("create", path):
        # The parents are system directories such as /var/lib: the usual mode is right for them.
        os.makedirs(path, mode=DIRECTORY_MODE, exist_ok=True)
        sync_directory(os.path.dirname(os.path.abspath(path)))


def read_bytes(path: str) -> bytes | None:
    """The content of a file, None when there is no such file."""
    with told("read", path):
        try:
            with open(path, "rb") as stream:
                return stream.read()
        except FileNotFoundError:
            return None


def read_text(path: str) -> str | None:
    """The content of a file as text, None when there is no such file; bytes that are no UTF-8 become U+FFFD."""
    content = read_bytes(path)
    return None if content is None else content.decode("utf-8", errors="replace")


def sha256(path: str) -> str:
    """The hash of a file's content, '' when there is no such file or it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return ""


def append_text(path: str, text: str) -> None:
    """Append to a private file, which is made where it is missing. The caller holds ``exclusive``."""
    with told("append to", path):
        fresh = not os.path.exists(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            left = text.encode("utf-8")
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if fresh:
            sync_directory(os.path.dirname(path))


def write_atomic(path: str, content: bytes) -> None:
    """Put a private file in place whole: whoever reads sees the old content or the new one, also after a crash."""
    with told("write", path):
        directory = os.path.dirname(path)
        # mkstemp makes it 0600, before there is anything in it.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_directory(directory)


def remove(path: str) -> None:
    """Delete a file that may be gone already."""
    with told("remove", path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sync_directory(os.path.dirname(path))


def login_name() -> str:
    """Who is at work on this host: behind sudo the one who called it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        # A user id that the host has no name for, as in containers.
        return f"uid {os.geteuid()}"


@contextlib.contextmanager
def _flock(directory: str, operation: int) -> Iterator[None]:
    with told("open", directory):
        # The directory itself is locked: it is never replaced, unlike the files in it, and needs no file beside them.
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with told("lock", directory):
            fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make a new or removed name in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def told(doing: str, path: str) -> Iterator[None]:
    """Turn what the operating system refuses into what an operator can act on."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        advice = _NEXT.get(error.errno or 0, "Look at the disk of this host (dmesg), then run the same command again.")
        raise StateDirError(f"Cannot {doing} {path}: {reason}. {advice}") from error
