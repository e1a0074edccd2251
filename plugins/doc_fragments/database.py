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
        libpq, left out, or refused with what to do instead.
      - One of O(database_url), O(env_file) and O(project) is needed.
    type: str
  env_file:
    description:
      - An C(.env) file on the host that runs the task, in which the URL is a variable. The URL then never leaves that
        host.
    type: path
  env_variable:
    description:
      - The variable of O(env_file) that holds the URL. Without it the one that O(project) uses, or else
        C(DATABASE_URL).
    type: str
  project:
    description:
      - The folder in which C(prisma migrate deploy) is run, on the host that runs the task, for example
        C(/srv/connectin/apps/api). Layouts of Prisma 5, 6 and 7 are known.
      - Its C(prisma.config.ts), C(package.json) and schema say where the migrations are and which variable holds the
        URL; C(directUrl) is preferred, as by that command. The configuration is read and never run, so what code works
        out has to be given with the other options.
      - The variable is looked for in C(.env) of the folder, of the schema's and of C(prisma). What the other options
        say wins.
      - A project of another database than PostgreSQL, or of Prisma 8, is refused. Migrations whose
        C(migration_lock.toml) names another database are refused without this option, too.
    type: path
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
