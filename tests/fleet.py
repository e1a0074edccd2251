"""Eyes and hands of the tests on the sandbox: everything is looked at from outside the collection."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

CHECKOUT = Path(__file__).resolve().parents[1]
# Batches and gates in their full length are for the tests that are about them: the others switch all hosts at once.
QUICK = {"rollback_batches": ["100%"], "rollback_health_interval": 0.3}
DOWN_IN_V120 = ["20250303090000_rename_post_body", "20250304090000_create_reactions"]


class Run:
    """One finished ansible-playbook: return code and what the operator read."""

    def __init__(self, process: subprocess.CompletedProcess[str]):
        self.rc = process.returncode
        self.text = process.stdout + process.stderr

    def changed(self) -> int:
        """Return the sum of changed= over all hosts in the closing lines."""
        counts = [
            word.split("=")[1]
            for line in self.text.splitlines()
            if "changed=" in line
            for word in line.split()
            if word.startswith("changed=")
        ]
        assert counts, self.text
        return sum(int(count) for count in counts)


class Fleet:
    """The sandbox's hosts, registry and database as an outsider sees them."""

    def __init__(self):
        self.state = json.loads((CHECKOUT / ".sandbox/state.json").read_text())
        self.prefix = self.state["prefix"]
        self.hosts: dict[str, str] = self.state["hosts"]
        self._password = json.loads((CHECKOUT / ".sandbox/secrets.json").read_text())["database"]

    def sandbox(self, *words: str) -> str:
        done = subprocess.run([CHECKOUT / "sandbox/sandbox", *words], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def play(self, playbook: str, **extra: object) -> Run:
        return self.run(self._command(playbook, **extra))

    def kill_when(self, text: str, playbook: str, *, once: Callable[[], object] | None = None, **extra: object) -> None:
        """Start a playbook and SIGKILL it, with all it started, as soon as it prints a text, and `once` is true."""
        process = self.started(playbook, **extra)
        seen = self._until(process, text)
        try:
            if once:
                self.eventually(once)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert text in seen, seen

    def play_until(self, text: str, then: Callable[[], object], playbook: str, **extra: object) -> Run:
        """Run a playbook to its end, which has to come within two minutes; do something as soon as it prints a text."""
        return self.play_through({text: then}, playbook, **extra)

    def play_through(
        self, faults: Mapping[str, Callable[[], object]], playbook: str, *, seconds: float = 120, **extra: object
    ) -> Run:
        """Run a playbook to its end, doing what belongs to each text as soon as it is printed, in the given order.

        The end has to come within so many seconds after the last of them.
        """
        process = self.started(playbook, **extra)
        seen = ""
        try:
            for text, then in faults.items():
                said = self._until(process, text)
                seen += said
                assert text in said, seen
                then()
            ended = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
            ended.start()
            # Not communicate(), which would leave out what was read ahead of the last line.
            seen += process.stdout.read()
            process.wait()
            ended.cancel()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode >= 0, f"it did not end in {seconds} s\n{seen}"
        return Run(subprocess.CompletedProcess(process.args, process.returncode, seen, ""))

    def play_together(self, *plays: tuple[str, Mapping[str, object]]) -> list[Run]:
        """Start playbooks at the same moment and return them when all have ended."""
        processes = [self.started(playbook, **extra) for playbook, extra in plays]
        with ThreadPoolExecutor(len(processes)) as readers:
            texts = list(readers.map(lambda process: process.communicate(timeout=240)[0], processes))
        return [
            Run(subprocess.CompletedProcess(process.args, process.returncode, text, ""))
            for process, text in zip(processes, texts)
        ]

    def started(self, playbook: str, **extra: object) -> subprocess.Popen:
        """Start a playbook in a process group of its own; what it prints is one pipe."""
        return subprocess.Popen(
            self._command(playbook, **extra),
            cwd=CHECKOUT,
            env={**self._environment(), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def _until(process: subprocess.Popen, text: str) -> str:
        seen = ""
        for line in process.stdout:
            seen += line
            if text in line:
                break
        return seen

    def _command(self, playbook: str, **extra: object) -> list[str]:
        options = []
        for name in ("check", "limit", "verbosity"):
            value = extra.pop(name, None)
            if name == "check" and value:
                options.append("--check")
            elif name == "limit" and value:
                options += ["--limit", str(value)]
            elif name == "verbosity" and value:
                options.append("-" + "v" * int(str(value)))
        command = [str(CHECKOUT / ".venv/bin/ansible-playbook"), playbook, *options]
        return command + ["-e", json.dumps({**QUICK, **extra})]

    @staticmethod
    def _environment() -> dict[str, str]:
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            # Molecule asks for it, and that would win.
            "ANSIBLE_FORCE_COLOR": "0",
            "PATH": f"{CHECKOUT / '.venv/bin'}:{os.environ['PATH']}",
        }

    def run(self, command: list) -> Run:
        environment = self._environment()
        return Run(subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=420, env=environment))

    def on(self, host: str, *words: str, check: bool = True) -> str:
        """Run a command on a host as root and return what it printed."""
        done = subprocess.run(
            ["docker", "exec", f"{self.prefix}-{host}", *words], capture_output=True, text=True, timeout=120
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, host: str, script: str) -> str:
        return self.on(host, "sh", "-ec", script)

    def get(self, url: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def health(self, host: str = "app1") -> tuple[int, dict]:
        status, body = self.get(f"http://{self.hosts[host]}:5007/health")
        return status, json.loads(body) if body.startswith("{") else {}

    def eventually(self, condition, seconds: float = 30):
        """Return the first true value of a condition; fail when the time is over."""
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(0.2)

    def react(self, count: int = 1, host: str = "app1") -> None:
        """Write rows that only v1.2.0 knows, as users do."""
        for _ in range(count):
            request = urllib.request.Request(
                f"http://{self.hosts[host]}:5007/reactions",
                method="POST",
                data=json.dumps({"postId": 1, "kind": "like"}).encode(),
                headers={"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=5) as answer:
                assert answer.status in (200, 201)

    def query(self, sql: str, database: str = "connectin") -> list[tuple]:
        with psycopg.connect(
            host=self.state["database"]["host"], user="connectin", password=self._password, dbname=database
        ) as connection:
            return (
                connection.execute(sql).fetchall()
                if sql.lstrip().lower().startswith(("select", "with"))
                else [(connection.execute(sql).rowcount,)]
            )

    def psql(self, text: str) -> str:
        """Run a script with psql, as a person would, stopping at its first error."""
        command = ["docker", "exec", "-i", "-u", "postgres", f"{self.prefix}-db", "psql", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run([*command, "connectin"], input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def catalog(self, database: str = "connectin") -> str:
        """Return the schema of a database as pg_dump prints it, without what differs from run to run."""
        dump = subprocess.run(
            ["docker", "exec", "-u", "postgres", f"{self.prefix}-db", "pg_dump", "--schema-only", database],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        return "\n".join(
            line for line in dump.splitlines() if line and not line.startswith(("--", "\\restrict", "\\unrestrict"))
        )

    def rows(self) -> dict[str, bool]:
        """Return {migration: rolled back} of every row, newest row of a name last."""
        return dict(
            self.query("select migration_name, rolled_back_at is not null from _prisma_migrations order by started_at")
        )

    def running_digest(self, host: str, service: str) -> str:
        """Return the digest of the image that a service's running container was made from, as the engine says."""
        container = self.shell(
            host,
            f"docker ps -q --filter label=com.docker.compose.service={service} "
            "--filter label=com.docker.compose.oneoff=False",
        ).strip()
        assert container, f"{service} does not run on {host}"
        image = self.on(host, "docker", "inspect", "--format", "{{.Image}}", container).strip()
        digests = json.loads(self.on(host, "docker", "image", "inspect", "--format", "{{json .RepoDigests}}", image))
        return digests[0].partition("@")[2]

    def published_digest(self, service: str, release: str) -> str:
        """Return the digest under which the registry holds a release, asked from the registry's own files."""
        repository = f"/var/lib/registry/docker/registry/v2/repositories/connectin/{service}"
        link = f"{repository}/_manifests/tags/{release}/current/link"
        return subprocess.run(
            ["docker", "exec", f"{self.prefix}-registry", "cat", link], capture_output=True, text=True, check=True
        ).stdout.strip()

    def head(self, host: str) -> str:
        return self.on(host, "git", "-C", "/srv/connectin", "describe", "--tags", "--exact-match").strip()

    def fingerprint(self) -> dict[str, str]:
        """Return what a plan must leave as it is: files, git, containers and images, the registry, the database."""
        found = {}
        for host in self.hosts:
            found[f"{host} files"] = self.shell(
                host,
                "find /srv/connectin /var/lib/connectin-rollback /root/.docker -type f -print0"
                " 2>/dev/null | sort -z | xargs -0 -r sha256sum;"
                " find /srv/connectin /var/lib/connectin-rollback -printf '%p %m %U\n' 2>/dev/null | sort || true",
            )
            found[f"{host} git"] = self.shell(
                host,
                # Without them this look at it would refresh the index, as any `git status` does.
                "export GIT_OPTIONAL_LOCKS=0 GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*';"
                " cd /srv/connectin; git status --porcelain; git for-each-ref;"
                " git rev-parse HEAD; git stash list",
            )
            found[f"{host} engine"] = self.shell(
                host,
                "docker ps -a --no-trunc --format '{{.ID}} {{.Image}} {{.State}}';"
                " docker images --no-trunc --format '{{.Repository}} {{.Tag}} {{.Digest}} {{.ID}}' | sort;"
                " docker network ls -q; docker volume ls -q",
            )
        found["registry"] = subprocess.run(
            ["docker", "exec", f"{self.prefix}-registry", "sh", "-c", "find /var/lib/registry -type f | sort"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        dump = subprocess.run(
            ["docker", "exec", "-u", "postgres", f"{self.prefix}-db", "pg_dump", "--inserts", "connectin"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        lines = [line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
        found["database"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the lines that differ between two fingerprints, each with the part of the world it belongs to."""
    return [
        f"{part}: {line}"
        for part in before
        for line in difflib.unified_diff(before[part].splitlines(), after[part].splitlines(), lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
