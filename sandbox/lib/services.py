"""The containers beside the hosts: registry, PostgreSQL, the build machine, the load balancer."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import socket
import urllib.error
import urllib.request

from .config import FETCH_KEY, KEY, State, container_name, load_secrets
from .containers import (
    NESTED_ENGINE,
    Container,
    ca_mount,
    ensure_container,
    in_container,
    put_files,
    revive,
)
from .machine import resolvers
from .shell import SandboxError, pipe, run, step, wait_until

HAPROXY_CONFIG = "/etc/haproxy-sandbox/haproxy.cfg"
HAPROXY_STATE = "/var/lib/haproxy/server-state"
ADMIN_PORT = 9999
BACKENDS = ("api", "web", "assets")
STATISTICS_PORT = 8404
# A proxy of the machine must not stand between it and the sandbox.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def daemon_config(state: State) -> str:
    """daemon.json of a nested engine: the sandbox's registry has no certificate, and names are asked of the machine's
    resolver, since the one on a container's loopback is not seen from a nested container."""
    document = {"insecure-registries": [state.registry], "dns": resolvers()}
    return json.dumps({key: value for key, value in document.items() if value}, indent=2) + "\n"


def engine_host(state: State, name: str, address: str, volumes: tuple[tuple[str, str], ...] = ()) -> Container:
    """A container that is a machine of its own: its engine, SSH, and a volume for the engine's images."""
    return Container(
        name=name,
        image="host",
        address=address,
        options=NESTED_ENGINE + ca_mount(),
        volumes=((f"{name}-docker", "/var/lib/docker"), *volumes),
        files=(("/etc/docker/daemon.json", daemon_config(state)),),
    )


def ensure_registry(state: State) -> None:
    with step("registry") as told:
        told.note = state.registry
        wanted = Container(
            name="registry",
            image="services",
            address=state.service("registry"),
            command=("run-registry",),
            volumes=(("registry", "/var/lib/registry"),),
            environment=(("REGISTRY_PASSWORD", load_secrets()["registry"]),),
        )
        ensure_container(state, wanted)
        wait_until(lambda: fetch(f"http://{state.registry}/")[0] == 200, "the registry answers", 30)


def ensure_database(state: State) -> None:
    if state.database_place == "service":
        return
    with step("PostgreSQL") as told:
        told.note = f"{state.service('db')}:5432"
        wanted = Container(
            name="db",
            image="services",
            address=state.service("db"),
            command=("run-postgres",),
            volumes=(("db", "/var/lib/postgresql/data"),),
            environment=(("DATABASE_PASSWORD", load_secrets()["database"]),),
            options=("--shm-size=128m", "--stop-signal=SIGINT"),
        )
        ensure_container(state, wanted)
        ready = ["docker", "exec", container_name("db"), "pg_isready", "-q", "-h", "127.0.0.1"]
        wait_until(lambda: run(ready, check=False).returncode == 0, "PostgreSQL accepts connections", 60)


def ensure_build_machine(state: State) -> None:
    """The container `ci`: keeps the git repository, builds the releases and pushes them."""
    with step("build machine with the git repository") as told:
        told.note = state.git_url
        ensure_container(state, engine_host(state, "ci", state.service("ci"), (("ci-git", "/srv/git"),)))
        fetch_key = FETCH_KEY.with_suffix(".pub").read_text(encoding="utf-8")
        in_container(
            "ci",
            f"""
            install -d -o git -g git -m 0700 /home/git/.ssh
            echo '{fetch_key.strip()} ' >/home/git/.ssh/authorized_keys
            chown git:git /home/git/.ssh/authorized_keys
            chmod 0600 /home/git/.ssh/authorized_keys
            chown -R git:git /srv/git
            /usr/local/sbin/host-docker start
            {login_script(state)}
            """,
        )


def load_image_into_ci(state: State, image: str, reference: str) -> None:
    """The build machine has this image of the machine's engine, under the name that the registry will know."""
    wanted = run(["docker", "image", "inspect", "--format", "{{.Id}}", image]).stdout.strip()
    name = f"{state.registry}/{reference}"
    if in_container("ci", f"docker image inspect --format '{{{{.Id}}}}' {name}", check=False).strip() == wanted:
        return
    with step(f"hand {reference} to the build machine"):
        pipe(["docker", "save", image], ["docker", "exec", "-i", container_name("ci"), "docker", "load", "--quiet"])
        in_container("ci", f"docker tag {image} {name} && docker rmi {image}")


def push_image(state: State, reference: str) -> None:
    """The registry has this image, as the build machine has it."""
    repository, tag = reference.split(":")
    known = in_container("ci", f"docker image inspect --format '{{{{.RepoDigests}}}}' {state.registry}/{reference}")
    digest = registry_digest(state, repository, tag)
    if not digest or digest not in known:
        with step(f"push {reference}"):
            in_container("ci", f"docker push --quiet {state.registry}/{reference}")


def login_script(state: State) -> str:
    """Shell text that logs the current user in to the registry; the password is in it, so it goes in as input."""
    password = load_secrets()["registry"]
    return f"docker login --username connectin --password-stdin {state.registry} >/dev/null 2>&1 <<<'{password}'"


def admit_script() -> str:
    """Shell text, run as root: the controller's key opens the user `deploy`."""
    return f"""
        install -d -o deploy -g deploy -m 0700 /home/deploy/.ssh
        install -o deploy -g deploy -m 0600 /dev/stdin /home/deploy/.ssh/authorized_keys <<'KEY'
{KEY.with_suffix(".pub").read_text(encoding="utf-8").strip()}
KEY
    """


def host_key(name: str) -> str:
    return in_container(name, "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").strip()


def ensure_load_balancer(state: State) -> None:
    with step("load balancer") as told:
        told.note = f"http://{state.service('lb')}:3111, statistics on {statistics_url(state)}"
        wanted = Container(name="lb", image="services", address=state.service("lb"), command=("run-haproxy",))
        ensure_container(state, wanted)
        config = haproxy_config(state)
        if in_container("lb", f"cat {HAPROXY_CONFIG}", check=False) != config:
            # A reload begins with every server in rotation, unless it is told which ones were drained.
            put_files("lb", {HAPROXY_STATE: admin(state, "show servers state"), HAPROXY_CONFIG: config})
            run(["docker", "kill", "--signal=USR2", container_name("lb")])
        # It is a host that Ansible reaches, as those of the fleet are.
        in_container("lb", f"{admit_script()}\nuntil pgrep -x sshd >/dev/null; do sleep 0.1; done")
        wait_until(lambda: fetch(statistics_url(state))[0] == 200, "the load balancer answers", 15)


def statistics_url(state: State) -> str:
    return f"http://{state.service('lb')}:{STATISTICS_PORT}/;csv"


def haproxy_config(state: State) -> str:
    """One server line per host, named as the host, in the backends for API, web frontend and assets."""

    def servers(port: int) -> str:
        return "\n".join(f"    server {name} {address}:{port}" for name, address in state.hosts.items())

    return f"""\
# Written by the sandbox.
global
    maxconn 2000
    log stdout format raw local0
    # The network is the sandbox's own; whoever reaches it may drain and undrain.
    stats socket ipv4@0.0.0.0:{ADMIN_PORT} level admin
    # As Debian's own configuration has it.
    stats socket /run/haproxy/admin.sock mode 660 level admin
    server-state-file {HAPROXY_STATE}

defaults
    mode http
    log global
    option httplog
    # Clients keep their connections. Those to Node are not kept: it closes one after five idle seconds, and a request
    # that is on its way just then would be lost, rollback or not.
    option http-server-close
    option redispatch
    retries 2
    retry-on conn-failure
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    # A page takes its time on a busy machine; without this it would have no more than `inter`.
    timeout check 5s
    load-server-state-from-file global
    default-server check inter 500ms fall 3 rise 1

frontend api
    bind :5007
    default_backend api

frontend web
    bind :3111
    use_backend assets if {{ path_beg /_next/static/ }}
    default_backend web

backend api
    option httpchk GET /health
    http-check expect status 200
    http-response set-header X-Server %s
{servers(5007)}

backend web
    option httpchk GET /
    http-check expect status 200
    http-response set-header X-Server %s
{servers(3111)}

# Between two releases only some of the hosts have an asset: where it is not found, the next one is asked.
backend assets
    option redispatch 1
    retries {max(3, len(state.hosts))}
    retry-on conn-failure empty-response response-timeout 404
    # Whoever listens has files to give: a connection is check enough, and a page less to render.
    http-response set-header X-Server %s
{servers(3111)}

frontend statistics
    bind :{STATISTICS_PORT}
    stats enable
    stats uri /
    no log
"""


def undrain(state: State) -> None:
    """Every server of the load balancer takes traffic again when its health check passes."""
    commands = [
        f"set server {backend}/{name} {setting}"
        for backend in BACKENDS
        for name in state.hosts
        for setting in ("state ready", "weight 100%")
    ]
    admin(state, "; ".join(commands))


def admin(state: State, command: str) -> str:
    """What the load balancer's runtime interface answers, '' when nobody does."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((state.service("lb"), ADMIN_PORT), timeout=5) as line:
        line.sendall(command.encode() + b"\n")
        while part := line.recv(4096):
            answer += part
    return answer.decode()


def wait_for_servers(state: State) -> None:
    """The load balancer has seen every server healthy: its last checks, counted as it counts, have all passed."""

    def all_up() -> bool:
        rows = csv.DictReader(io.StringIO(fetch(statistics_url(state))[1].lstrip("# ")))
        servers = [row["status"] for row in rows if row["svname"] in state.hosts]
        return len(servers) == len(BACKENDS) * len(state.hosts) and all(status == "UP" for status in servers)

    wait_until(all_up, "the load balancer finds every server healthy", 15)


def revive_services(state: State) -> None:
    """Starts what a drill stopped."""
    names = ["registry", "ci", "lb"] + (["db"] if state.database_place == "apart" else [])
    for name in names:
        revive(state, name, state.service(name))


def fetch(url: str, timeout: float = 3) -> tuple[int, str]:
    """(status, text); (0, reason) when nobody answers."""
    try:
        with _opener.open(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")
    except OSError as error:
        return 0, str(error)


def registry_digest(state: State, repository: str, tag: str) -> str:
    """The digest that the registry answers for the tag, '' when it does not hold it."""
    credentials = base64.b64encode(f"connectin:{load_secrets()['registry']}".encode()).decode()
    headers = {
        "Authorization": f"Basic {credentials}",
        "Accept": "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json",
    }
    address = f"http://{state.registry}/v2/{repository}/manifests/{tag}"
    try:
        with _opener.open(urllib.request.Request(address, method="HEAD", headers=headers), timeout=5) as answer:
            return str(answer.headers["Docker-Content-Digest"])
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise SandboxError(f"the registry answers {error.code} for {repository}:{tag}.") from error
    except OSError as error:
        raise SandboxError(f"the registry at {state.registry} does not answer: {error}") from error
