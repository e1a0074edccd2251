"""The hosts of the fleet: what is on them, deploying a release as a pipeline does, and back to right after it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence

from . import database
from .config import (
    FETCH_KEY,
    FIRST_HOST,
    HEALTHY,
    INVENTORY,
    KEY,
    KNOWN_HOSTS,
    PROJECT_DIR,
    RELEASES,
    STATE_DIR,
    State,
    host_names,
    load_secrets,
    write_private,
)
from .containers import ensure_container, in_container, remove, revive
from .services import admit_script, engine_host, fetch, host_key, login_script, statistics_url
from .shell import in_parallel, step, wait_until

# Whoever deploys this release gets a service that never answers.
CRASHES = "v1.3.0"


def ensure_hosts(state: State, count: int) -> None:
    """Just so many hosts run and can be reached."""
    names = host_names(count)
    for name in [name for name in state.hosts if name not in names]:
        with step(f"remove host {name}, since {count} {'is' if count == 1 else 'are'} asked for"):
            remove(name, [f"{name}-docker"])
        state.deployed.pop(name, None)
    state.hosts = {name: state.address(FIRST_HOST + number) for number, name in enumerate(names)}
    state.save()
    in_parallel([lambda name=name: _ensure_host(state, name) for name in names])


def _ensure_host(state: State, name: str) -> None:
    with step(f"host {name}") as told:
        told.note = state.hosts[name]
        made = ensure_container(state, engine_host(state, name, state.hosts[name]))
        if made == "created":
            state.deployed.pop(name, None)
        in_container(name, "/usr/local/sbin/host-docker start")


def write_inventory(state: State) -> None:
    """The inventory: the fleet, the load balancer before it, and their keys as they really are."""
    reached = {**state.hosts, "lb": state.service("lb")}
    keys = in_parallel([lambda name=name: host_key(name) for name in reached])
    lines = [f"{address} {key}" for address, key in zip(reached.values(), keys)]
    write_private(KNOWN_HOSTS, "\n".join(lines) + "\n")
    # Every value as it is and paths in full: tools that read an inventory without templating it, such as testinfra,
    # use it too.
    access = {
        "ansible_user": "deploy",
        # Not looked for anew in each run.
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_private_key_file": KEY,
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={KNOWN_HOSTS} -o IdentitiesOnly=yes",
    }
    rotation = {
        "rollback_drain_tasks": "haproxy",
        "rollback_undrain_tasks": "haproxy",
        "rollback_rotation_url": statistics_url(state),
    }
    text = (
        "---\n# Written by sandbox/sandbox up; not kept in git.\n"
        + _inventory_group("connectin", state.hosts, {**access, **rotation})
        + _inventory_group("connectin_lb", {"lb": state.service("lb")}, access)
    )
    if not INVENTORY.exists() or INVENTORY.read_text(encoding="utf-8") != text:
        INVENTORY.parent.mkdir(parents=True, exist_ok=True)
        INVENTORY.write_text(text, encoding="utf-8")


def _inventory_group(name: str, hosts: Mapping[str, str], variables: Mapping[str, object]) -> str:
    """The group as YAML; `hosts` is name -> address."""
    return "\n".join(
        [
            f"{name}:",
            "  hosts:",
            *(f"    {host}:\n      ansible_host: {address}" for host, address in hosts.items()),
            "  vars:",
            *(f"    {key}: {value}" for key, value in variables.items()),
            "",
        ]
    )


def access_script(state: State) -> str:
    """Shell text, run as root: who may log in, and the credentials for registry and git of root and of deploy."""
    return f"""
        give() {{  # HOME OWNER: the key that fetches from git, and a login to the registry
          install -d -o "$2" -g "$2" -m 0700 "$1/.ssh"
          install -o "$2" -g "$2" -m 0600 /dev/stdin "$1/.ssh/id_ed25519" <<'KEY'
{FETCH_KEY.read_text(encoding="utf-8").strip()}
KEY
        }}
        give /root root
        give /home/deploy deploy
        {admit_script()}
        echo '{state.service("ci")} {host_key("ci")}' >/etc/ssh/ssh_known_hosts
        {login_script(state)}
        install -d -o deploy -g deploy -m 0700 /home/deploy/.docker
        install -o deploy -g deploy -m 0600 /root/.docker/config.json /home/deploy/.docker/config.json
        install -d -o deploy -g deploy -m 0755 {PROJECT_DIR}
        pgrep -x sshd >/dev/null || /usr/sbin/sshd
    """


def provision(state: State, name: str) -> None:
    """Access, and the checkout that every deployment works in."""
    in_container(name, access_script(state))
    in_container(
        name,
        f"test -d {PROJECT_DIR}/.git || git clone --quiet --no-checkout {state.git_url} {PROJECT_DIR}",
        user="deploy",
    )


def start_afresh(state: State, name: str) -> None:
    """Nothing of an earlier life, whose tags may have stood for other commits, is left on the host."""
    in_container(
        name,
        f"""
        docker ps --all --quiet --no-trunc | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
        docker volume prune --all --force >/dev/null
        rm -rf {PROJECT_DIR} {STATE_DIR}
        """,
    )
    provision(state, name)


def environment_file(state: State, release: str) -> str:
    """The .env of a host, which git does not hold."""
    lines = [
        "# Settings of this host",
        f"REGISTRY={state.registry}",
        f"WEB_TAG={release}",
        f'DATABASE_URL="{database.url(state)}"',
    ]
    if state.database_place == "service":
        lines += ["COMPOSE_PROFILES=database-in-stack", f"DATABASE_PASSWORD={load_secrets()['database']}"]
    if state.web in ("artifact", "proxy"):
        lines += [f"COMPOSE_FILE=docker-compose.yml:docker-compose.{state.web}.yml"]
    return "\n".join(lines) + "\n"


def _checkout_script(state: State, release: str) -> str:
    """Shell text, run as deploy: the checkout stands at the release, and .env names it."""
    return f"""
        cd {PROJECT_DIR}
        git rev-parse --quiet --verify 'refs/tags/{release}' >/dev/null || git fetch --quiet --tags origin
        git checkout --quiet --force --detach {release}
        install -m 0600 /dev/stdin .env <<'ENV'
{environment_file(state, release)}ENV
    """


def deploy(state: State, release: str, hosts: Sequence[str]) -> None:
    """What the pipeline does: checkout and pull on every host, migrate once, then start."""
    with step(f"deploy {release} to {', '.join(hosts)}"):
        in_parallel([lambda name=name: _prepare(state, name, release) for name in hosts])
        migrate(state, hosts[0])
        in_parallel([lambda name=name: _start(state, name, release) for name in hosts])
        for name in hosts:
            state.deployed[name] = release
        state.save()


def join(state: State, release: str, hosts: Sequence[str]) -> None:
    """New hosts get the release that the fleet runs; the database is where it should be already."""
    with step(f"bring {', '.join(hosts)} to {release}"):
        in_parallel([lambda name=name: _prepare(state, name, release) for name in hosts])
        in_parallel([lambda name=name: _start(state, name, release) for name in hosts])
        state.deployed.update(dict.fromkeys(hosts, release))
        state.save()


def _prepare(state: State, name: str, release: str) -> None:
    in_container(
        name,
        f"""
        {_checkout_script(state, release)}
        git fetch --quiet --tags origin
        docker compose pull --quiet api web
        {_keep_build_script(state, release)}
        """,
        user="deploy",
    )


def _keep_build_script(state: State, release: str) -> str:
    """Shell text: the release's web build is kept in web-releases/, taken out of the image that holds it."""
    return f"""
        if [ ! -e web-releases/{release}/.next/BUILD_ID ]; then
          mkdir -p web-releases
          rm -rf web-releases/.{release}.new
          box=$(docker create {state.registry}/connectin/web:{release})
          docker cp --quiet "$box:/app" web-releases/.{release}.new
          docker rm "$box" >/dev/null
          mv web-releases/.{release}.new web-releases/{release}
        fi
        ln -sfn {release} web-releases/current
    """


def start_database(state: State, release: str) -> None:
    """The database that is a service of the stack runs, from the checkout of this release."""
    in_container("app1", _checkout_script(state, release), user="deploy")
    in_container("app1", f"cd {PROJECT_DIR} && docker compose up -d --wait --quiet-pull db", user="deploy")


def migrate(state: State, name: str) -> None:
    """The real `prisma migrate deploy`, on the live database and on the reference at the same time."""
    in_container(
        name,
        f"""
        cd {PROJECT_DIR}
        docker compose run --rm -T migrate </dev/null >/tmp/migrate.log 2>&1 &
        live=$!
        export DATABASE_URL={shlex.quote(database.url(state, database.REFERENCE))}
        docker compose run --rm -T -e DATABASE_URL migrate </dev/null >/tmp/migrate-reference.log 2>&1 &
        reference=$!
        wait $live || {{ cat /tmp/migrate.log; exit 1; }}
        wait $reference || {{ cat /tmp/migrate-reference.log; exit 1; }}
        """,
        user="deploy",
    )


def _start(state: State, name: str, release: str) -> None:
    # A build folder behind the link is no change that Compose could see.
    again = "docker compose restart web" if state.web == "artifact" else "true"
    script = f"cd {PROJECT_DIR} && docker compose up -d --remove-orphans 2>&1 && {again} 2>&1"
    in_container(name, script, user="deploy")
    wait_for_release(state, name, release)


def wait_for_release(state: State, name: str, release: str) -> None:
    """API and web answer and say that they are this release; whether they are healthy is not asked."""
    if release == CRASHES:
        return
    address = state.hosts[name]
    # A proxy lets nobody through to an API that is not healthy.
    hidden = state.web == "proxy" and release not in HEALTHY

    def answers() -> bool:
        try:
            version = release if hidden else json.loads(fetch(f"http://{address}:5007/health")[1]).get("version")
        except (ValueError, AttributeError):
            return False
        return version == release and f'data-release="{release}"' in fetch(f"http://{address}:3111/")[1]

    wait_until(answers, f"{release} answers on {name}", 60, every=0.1)


def seed(state: State, release: str) -> None:
    """Rows that only this release's users could have written."""
    name = next(iter(state.hosts))
    posts = {
        "v1.0.0": [{"title": "Hello", "body": "The first post"}, {"title": "News", "body": "ConnectIn is open"}],
        "v1.1.0": [{"title": "Who wrote this", "body": "Posts have an author now", "author": "Ada"}],
        "v1.2.0": [],
    }
    requests = [("/posts", post) for post in posts.get(release, [])]
    if release == "v1.2.0":
        requests += [("/reactions", {"postId": 1, "kind": kind}) for kind in ("like", "like", "insightful")]
    for path, body in requests:
        # From beside the API: a proxy lets nobody through to one that is not healthy.
        words = ["curl", "-sS", "--fail-with-body", "--json", json.dumps(body), f"http://127.0.0.1:5007{path}"]
        in_container(
            name, f"cd {PROJECT_DIR} && docker compose exec -T api {shlex.join(words)} </dev/null 2>&1", user="deploy"
        )


def restore(state: State, release: str, *, keep_state: bool) -> None:
    """Every host and the database are as they were right after this release was deployed."""
    names = list(state.hosts)
    with step("hosts, engines, credentials, checkouts"):
        in_parallel([lambda name=name: _reset_host(state, name, release, keep_state) for name in names])
    with step(f"database from the snapshot of {release}"):
        if state.database_place == "service":
            start_database(state, release)
        database.restore_snapshot(state, release)
    with step(f"{release} answers"):
        in_parallel([lambda name=name: _start(state, name, release) for name in names])
    state.deployed = dict.fromkeys(names, release)
    state.save()


def _reset_host(state: State, name: str, release: str, keep_state: bool) -> None:
    revive(state, name, state.hosts[name])
    forget = "" if keep_state else f"rm -rf {shlex.quote(STATE_DIR)}"
    in_container(
        name,
        f"""
        /usr/local/sbin/host-docker start
        {access_script(state)}
        # A database in the stack is not killed: its recovery would take longer than all the rest.
        docker ps --all --format '{{{{.ID}}}} {{{{.Label "com.docker.compose.service"}}}}' \
          | awk '$2 != "db" {{ print $1 }}' | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
        {forget}
        iptables --flush INPUT
        iptables --flush OUTPUT
        rm -f {PROJECT_DIR}/.git/index.lock
        chown -R deploy:deploy {PROJECT_DIR}
        git config --system --get-all safe.directory | grep --quiet --line-regexp {PROJECT_DIR} \\
          || git config --system --add safe.directory {PROJECT_DIR}
        """,
    )
    in_container(
        name,
        f"""
        cd {PROJECT_DIR}
        git remote set-url origin {state.git_url}
        test "$(git tag | wc -l)" = {len(RELEASES)} || git fetch --quiet --tags --force origin
        {_checkout_script(state, release)}
        git clean --quiet --force -d -x --exclude=.env --exclude=web-releases
        {_pull_script(state, release)}
        {_keep_build_script(state, release)}
        """,
        user="deploy",
    )


def _pull_script(state: State, release: str) -> str:
    """Shell text: this release and the ones before are here as they were pushed; a drill may have removed some."""
    known = RELEASES[: RELEASES.index(release) + 1]
    wanted = {name: digest for name, digest in state.digests.items() if name.rsplit(":", 1)[1] in known}
    lines = [
        f"docker image inspect --format '{{{{.RepoDigests}}}}' {state.registry}/{name} 2>/dev/null"
        f" | grep --quiet {digest} || docker pull --quiet {state.registry}/{name} >/dev/null"
        for name, digest in wanted.items()
    ]
    return "\n        ".join(lines)


def status_lines(state: State) -> list[str]:
    """One line per host: what was deployed, what answers."""
    lines = []
    for name, address in state.hosts.items():
        started = time.monotonic()
        status, text = fetch(f"http://{address}:5007/health")
        elapsed = (time.monotonic() - started) * 1000
        lines.append(
            f"{name:6} {address:14} deployed {state.deployed.get(name, 'nothing'):8} "
            f"/health {status or 'no answer'} {text.strip()[:120]} ({elapsed:.0f} ms)"
        )
    return lines
