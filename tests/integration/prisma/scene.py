"""What most of these tests stand on: three migrations, what a refusal looks like, and waiting for what others do."""

from __future__ import annotations

import threading

INIT = ("20260101_init", "CREATE TABLE users (id int PRIMARY KEY, name text);", "DROP TABLE users;")
RENAME = (
    "20260102_rename",
    "ALTER TABLE users RENAME COLUMN name TO full_name;",
    "ALTER TABLE users RENAME COLUMN full_name TO name;",
)
REACTIONS = ("20260103_reactions", "CREATE TABLE reactions (id int PRIMARY KEY);", "DROP TABLE reactions;")


def refused(stack, result, *parts):
    """It failed, said why, and nothing changed."""
    assert result["failed"] and not result["changed"], result
    for part in parts:
        assert part in result["msg"], result["msg"]


def in_background(work):
    """Start it; the returned function gives its result."""
    found = {}
    thread = threading.Thread(target=lambda: found.update(result=work()))
    thread.start()

    def result():
        thread.join(30)
        return found["result"]

    return result


def wait_until(condition):
    """Ask until something holds that another session or process is about to do: nothing tells when it did."""
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never happened")
