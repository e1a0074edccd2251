# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of every module that talks to the application's database."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  database_url:
    description:
      - The application's database URL, in Prisma's form, for example
        C(postgresql://user:password@host:5432/name?schema=public).
      - What only Prisma understands in it (O(schema), C(connection_limit), C(sslaccept) and others) is translated for
        libpq or left out.
      - One of O(database_url) and O(env_file) is needed.
    type: str
  env_file:
    description:
      - An C(.env) file on the host that runs the task, in which the URL is a variable. The URL then never leaves that
        host.
    type: path
  env_variable:
    description:
      - The variable of O(env_file) that holds the URL.
    type: str
    default: DATABASE_URL
  schema:
    description:
      - The schema of C(_prisma_migrations).
      - Empty takes the URL's C(schema), or else the one schema that has the table; more than one is an error.
    type: str
    default: ''
  resolve:
    description:
      - Addresses of host names in the URL, as C(curl --resolve) takes them, for a database whose name is known inside a
        Compose project only. TLS still checks the name.
    type: dict
    default: {}
  connect_timeout:
    description:
      - Seconds to wait for the connection.
    type: int
    default: 10
requirements:
  - psycopg (3) or psycopg2 on the host that runs the task
  - pglast on that host, to know what a migration adds and what its down script loses; without it nothing counts as
    additive and
    every down script counts as a loss of unknown size
"""
