"""Runs modules as Ansible does, each in a process of its own, without paying for Python's start every time.

Started once per test session; imports what the modules import, then forks for every request. A request is one line
of JSON on a UNIX socket: the module's path, its arguments, and packages that it shall not find. The answer is the exit
status and what the module wrote.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import socket
import sys
import traceback

import pglast.parser
import pglast.stream
import psycopg
from ansible.module_utils import basic
from ansible_collections.connectin.rollback.plugins.module_utils import (
    _backup_restore,
    _migration_archive,
    _prisma_project,
    _prisma_rollback,
)

PRELOADED = (pglast, psycopg, _backup_restore, _migration_archive, _prisma_project, _prisma_rollback)


def answer(connection: socket.socket) -> None:
    with connection, connection.makefile("rw", encoding="utf-8") as channel:
        request = json.loads(channel.readline())
        os.environ.update(request["environment"])
        for name in request["without"]:
            sys.modules[name] = None
        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": request["args"]}).encode()
        basic._ANSIBLE_PROFILE = "legacy"
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        status = 0
        try:
            runpy.run_path(request["module"], run_name="__main__")
        except SystemExit as done:
            status = done.code
        except BaseException:
            status = 1
            traceback.print_exc()
        channel.write(json.dumps([status, sys.stdout.getvalue(), sys.stderr.getvalue()]))


def main(path: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    print("ready", flush=True)
    while True:
        connection, _address = listener.accept()
        if os.fork() == 0:
            # Modules start programs of their own, which they have to be able to wait for.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                answer(connection)
            finally:
                os._exit(0)
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
