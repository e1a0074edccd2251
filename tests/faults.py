"""What happens to machines: each fault is a context, broken while it is entered and mended afterwards."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from fleet import Fleet

CUT = "-p tcp --dport 22 -j DROP"


@contextlib.contextmanager
def ssh_cut(fleet: Fleet, host: str) -> Iterator[None]:
    """Nothing that SSH sends reaches the host any more, not even on connections that stand."""
    fleet.shell(host, f"iptables --insert INPUT {CUT}")
    try:
        yield
    finally:
        fleet.shell(host, f"iptables --delete INPUT {CUT}")


@contextlib.contextmanager
def powered_off(fleet: Fleet, name: str) -> Iterator[None]:
    """The machine is off; afterwards it has booted again, with its engine."""
    container = f"{fleet.prefix}-{name}"
    subprocess.run(["docker", "kill", container], check=True, capture_output=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run(["docker", "start", container], check=True, capture_output=True, timeout=60)
        if name in fleet.hosts:
            fleet.shell(name, "/usr/local/sbin/host-docker start")


@contextlib.contextmanager
def engine_stopped(fleet: Fleet, host: str) -> Iterator[None]:
    fleet.shell(host, "/usr/local/sbin/host-docker stop")
    try:
        yield
    finally:
        fleet.shell(host, "/usr/local/sbin/host-docker start")


@contextlib.contextmanager
def disk_full(fleet: Fleet, host: str, folder: str) -> Iterator[None]:
    """The folder is on a disk of its own, with all that was in it and not a byte to spare."""
    fleet.shell(
        host,
        f"size=$(du -sk {folder} | cut -f1); cp -a {folder} /root/before-full;"
        f" mount -t tmpfs -o size=$((size * 2 + 256))k,mode=$(stat -c %a {folder}),uid=$(stat -c %u {folder}),"
        f"gid=$(stat -c %g {folder}) full {folder};"
        f" cp -a /root/before-full/. {folder}; rm -rf /root/before-full;"
        # It ends when nothing more can be written, and only then is the disk full.
        f" ! dd if=/dev/zero of={folder}/.full bs=4k 2>/dev/null",
    )
    try:
        yield
    finally:
        fleet.shell(host, f"umount {folder}")


@contextlib.contextmanager
def sick_target(fleet: Fleet, *hosts: str) -> Iterator[None]:
    """New containers on the hosts find no database; those that run keep the address they were started with."""
    for host in hosts:
        fleet.shell(host, "sed --in-place 's#^\\(DATABASE_URL=.*\\):5432/#\\1:5433/#' /srv/connectin/.env")
    try:
        yield
    finally:
        for host in hosts:
            fleet.shell(host, "sed --in-place 's#:5433/#:5432/#' /srv/connectin/.env")


# Asks HAProxy's runtime API what the first argument says.
ASK = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); "
    "s.sendall((sys.argv[1] + chr(10)).encode()); print(s.makefile().read())"
)


def asking_balancer(fleet: Fleet) -> list[str]:
    """A command that gives HAProxy its last argument, and prints the answer."""
    return ["docker", "exec", f"{fleet.prefix}-lb", "python3", "-c", ASK]


def drain(fleet: Fleet, host: str) -> None:
    """A person takes a host out of rotation."""
    commands = "; ".join(f"set server {backend}/{host} state maint" for backend in ("api", "web", "assets"))
    subprocess.run([*asking_balancer(fleet), commands], check=True, capture_output=True, timeout=60)
