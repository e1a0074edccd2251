"""What the machine itself has to have: a Docker engine, ssh-keygen, and the packages that the sandbox asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from .config import FETCH_KEY, HOME, KEY
from .shell import SandboxError, run, say, step, wait_until

ENGINE_LOG = "/var/log/dockerd-sandbox.log"


def ensure_engine() -> None:
    """A Docker engine answers, or an error says why none can be started."""
    found = _engine()
    if found.returncode == 0:
        return
    if os.geteuid() != 0:
        raise SandboxError(
            f"no Docker engine answers ({found.stderr.strip().splitlines()[-1] if found.stderr else 'no client'}) and "
            "installing one needs root. Start Docker, or run the sandbox as root."
        )
    if shutil.which("dockerd") is None:
        apt_install(["docker.io", "iptables"], "no Docker engine answers on this machine and none is installed")
    if shutil.which("docker") is None:
        apt_install(["docker-cli"], "the engine has no command line client here")
    with step(f"start dockerd in the background, its output goes to {ENGINE_LOG}"):
        _start_engine()


def _engine() -> subprocess.CompletedProcess[str]:
    return run(["docker", "info", "--format", "{{.ServerVersion}}"], check=False, timeout=20)


def _start_engine() -> None:
    # An init system that looks after the engine is asked first; a bare machine or container has none.
    if os.path.isdir("/run/systemd/system"):
        run(["systemctl", "start", "docker"])
    else:
        with open(ENGINE_LOG, "ab") as log:
            subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: _engine().returncode == 0, "the Docker engine answers", 60)
    except SandboxError as error:
        raise SandboxError(f"{error} Look at {ENGINE_LOG}.") from error


def apt_install(packages: Sequence[str], why: str) -> None:
    """Installs Debian packages and says what and why."""
    if shutil.which("apt-get") is None:
        raise SandboxError(f"{why}, and there is no apt-get to install {' '.join(packages)} with. Install it yourself.")
    if os.geteuid() != 0:
        raise SandboxError(f"{why}. Install it as root: apt-get install {' '.join(packages)}")
    say(f"        installing {' '.join(packages)}: {why}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    with step(f"apt-get install {' '.join(packages)}"):
        if run(command, check=False, env=environment).returncode != 0:
            # A bare machine has no package lists yet, or stale ones.
            run(["apt-get", "update"], env=environment)
            run(command, env=environment)


def ensure_keys() -> None:
    """A key for the controller to reach the hosts, and one for the hosts to fetch from git."""
    if KEY.exists() and FETCH_KEY.exists():
        return
    if shutil.which("ssh-keygen") is None:
        apt_install(["openssh-client"], "the hosts are reached over SSH")
    HOME.mkdir(mode=0o700, exist_ok=True)
    for path, comment in ((KEY, "sandbox-controller"), (FETCH_KEY, "sandbox-fetch")):
        if not path.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def resolvers() -> list[str]:
    """Name servers that nested engines can reach; those on loopback would not be seen from a container."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            with open(path, encoding="utf-8") as file:
                words = [line.split() for line in file]
        except OSError:
            continue
        found = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
        usable = [server for server in found if not server.startswith("127.") and server != "::1"]
        if usable:
            return usable
    return []
