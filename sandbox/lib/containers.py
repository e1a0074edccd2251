"""The sandbox's network and containers on the machine's engine."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import ipaddress
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

from .config import PREFIX, State, container_name
from .images import image_name
from .shell import SandboxError, run

SPEC_LABEL = "connectin.spec"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

# A nested engine needs nearly every capability, but --privileged asks for all of them, which machines that are
# containers themselves may lack. /var/lib/docker is a volume because overlay cannot lie on overlay; with a cgroup
# namespace of its own the nested containers would not start.
NESTED_ENGINE = (
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=systempaths=unconfined",
    "--security-opt=apparmor=unconfined",
    "--cgroupns=host",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
)


@dataclasses.dataclass(frozen=True)
class Container:
    """What `docker create` is asked for. `files` are put in before the first start."""

    name: str
    image: str
    address: str
    command: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    # name of the volume -> where it is mounted
    volumes: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    def spec(self) -> str:
        """Changes when anything does that the container was made of."""
        image = run(["docker", "image", "inspect", "--format", "{{.Id}}", image_name(self.image)]).stdout
        return hashlib.sha256((repr(self) + image).encode()).hexdigest()[:20]


def ensure_network(state: State) -> None:
    """A network of the sandbox's own, on a subnet that nothing else on this machine uses."""
    found = run(["docker", "network", "inspect", state.network], check=False)
    if found.returncode == 0:
        state.subnet = json.loads(found.stdout)[0]["IPAM"]["Config"][0]["Subnet"]
        return
    # Away from 172.16/12, where nested engines take their own networks from.
    start = int(hashlib.sha256(PREFIX.encode()).hexdigest(), 16) % 200
    candidates = [f"10.66.{(start + offset) % 256}.0/24" for offset in range(256)]
    reason = ""
    for subnet in ([state.subnet] if state.subnet else []) + candidates:
        if _in_use(subnet):
            continue
        made = run(["docker", "network", "create", "--subnet", subnet, state.network], check=False)
        if made.returncode == 0:
            state.subnet = subnet
            return
        reason = made.stderr.strip()
        if "overlap" not in reason.lower():
            break
    raise SandboxError(f"no network could be made for the sandbox: {reason or 'every 10.66.x.0/24 is in use'}")


def _in_use(subnet: str) -> bool:
    """Whether a route of this machine already leads into the subnet; the default route counts for nothing."""
    wanted = ipaddress.ip_network(subnet)
    with open("/proc/net/route", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    for row in rows:
        # addresses are hexadecimal with the last byte first
        address, mask = (ipaddress.ip_address(bytes.fromhex(row[column])[::-1]) for column in (1, 7))
        if int(mask) and wanted.overlaps(ipaddress.ip_network(f"{address}/{mask}")):
            return True
    return False


def ensure_container(state: State, wanted: Container) -> str:
    """The container runs as specified: 'created', 'started', or '' when nothing had to be done."""
    name = container_name(wanted.name)
    spec = wanted.spec()
    found = inspect(wanted.name)
    if found and found["Config"]["Labels"].get(SPEC_LABEL) != spec:
        remove(wanted.name)
        found = None
    if found is None:
        _create(state, wanted, name, spec)
        run(["docker", "start", name])
        return "created"
    return revive(state, wanted.name, wanted.address, found)


def revive(state: State, name: str, address: str, found: Mapping[str, Any] | None = None) -> str:
    """Undoes what a drill may have done to a container: paused, stopped, cut off the network."""
    found = found or inspect(name)
    if found is None:
        raise SandboxError(f"{name} is gone. Bring it back with: sandbox/sandbox up")
    full_name = container_name(name)
    done = ""
    if found["State"]["Paused"]:
        run(["docker", "unpause", full_name])
        done = "started"
    attached = found["NetworkSettings"]["Networks"].get(state.network)
    if attached is None:
        run(["docker", "network", "connect", "--ip", address, state.network, full_name])
        done = "started"
    if not found["State"]["Running"]:
        run(["docker", "start", full_name])
        done = "started"
    return done


def _create(state: State, wanted: Container, name: str, spec: str) -> None:
    arguments = [
        f"--name={name}",
        f"--hostname={wanted.name}",
        f"--network={state.network}",
        f"--ip={wanted.address}",
        "--restart=no",
        f"--label={SPEC_LABEL}={spec}",
        f"--label=connectin.sandbox={PREFIX}",
        *(f"--volume={container_name(volume)}:{path}" for volume, path in wanted.volumes),
        # The values come from this process's environment: an argument could be read by everybody.
        *(f"--env={key}" for key, _value in wanted.environment),
        *wanted.options,
    ]
    environment = dict(wanted.environment)
    run(["docker", "create", *arguments, image_name(wanted.image), *wanted.command], env=environment)
    if wanted.files:
        put_files(wanted.name, dict(wanted.files))


def put_files(name: str, files: Mapping[str, str]) -> None:
    """Writes files (absolute path -> text) into a container, which need not run."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size = len(text.encode())
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    send(["docker", "cp", "-", f"{container_name(name)}:/"], archive.getvalue())


def send(argv: Sequence[str], content: bytes) -> None:
    """Runs a command with these bytes as its input."""
    done = subprocess.run(list(argv), input=content, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise SandboxError(f"{' '.join(argv)} failed: {done.stdout.decode(errors='replace').strip()}")


def inspect(name: str) -> dict[str, Any] | None:
    found = run(["docker", "container", "inspect", container_name(name)], check=False)
    return dict(json.loads(found.stdout)[0]) if found.returncode == 0 else None


def in_container(name: str, script: str, *, user: str = "root", check: bool = True) -> str:
    """What a bash script prints in the container. The script goes in as input, so that no secret is an argument."""
    home = "/root" if user == "root" else f"/home/{user}"
    command = ["docker", "exec", "-i", "-u", user, "-e", f"HOME={home}", container_name(name), "bash", "-eu", "-s"]
    return run(command, input_text=script, check=check).stdout


def remove(name: str, volumes: Sequence[str] = ()) -> None:
    run(["docker", "rm", "--force", "--volumes", container_name(name)], check=False)
    for volume in volumes:
        run(["docker", "volume", "rm", "--force", container_name(volume)], check=False)


def sandbox_containers() -> list[str]:
    """The short names of the sandbox's containers, running or not."""
    listed = run(["docker", "ps", "--all", "--filter", f"label=connectin.sandbox={PREFIX}", "--format", "{{.Names}}"])
    return [name[len(PREFIX) + 1 :] for name in listed.stdout.split()]


def sandbox_volumes() -> list[str]:
    listed = run(["docker", "volume", "ls", "--quiet", "--filter", f"name={PREFIX}-"]).stdout.split()
    return [name[len(PREFIX) + 1 :] for name in listed if name.startswith(PREFIX + "-")]


def remove_network(state: State) -> None:
    run(["docker", "network", "rm", state.network], check=False)


def ca_mount() -> tuple[str, ...]:
    """Builds inside check the package registry with the machine's certificates: mounted, never part of an image."""
    return (f"--volume={CA_BUNDLE}:{CA_BUNDLE}:ro",) if os.path.exists(CA_BUNDLE) else ()
