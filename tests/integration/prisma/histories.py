"""Random histories of migrations, each with a down script that undoes it exactly, and what a database looks like.

Every down script also writes into ``witness.runs``, in its own transaction and outside what is compared: a script that
was committed twice is there twice.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from dataclasses import dataclass, field
from datetime import timedelta

from .conftest import LEDGER


@dataclass(frozen=True)
class Migration:
    """``loose`` names the indexes that its down script drops or builds outside the transaction."""

    name: str
    up: str
    down: str
    loose: tuple[str, ...] = ()

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.up.encode()).hexdigest()


@dataclass
class _Table:
    name: str
    default: str = "'x;y'"
    comment: str = "NULL"


# Names that a splitter or a quoting mistake would trip over.
_NAMES = ("plain", '"Mixed"', '"semi;colon"', '"per%cent %s"', '"täble"', '"quo""te"', '"--dash"', '"ta\'g$1$"')


@dataclass
class Writer:
    """Makes up one migration after the other; what it made so far is what the next one builds on."""

    random: random.Random
    marked: bool = False
    number: int = 0
    tables: list[_Table] = field(default_factory=list)
    enums: dict[str, list[str]] = field(default_factory=dict)
    enum_columns: dict[str, tuple[_Table, str]] = field(default_factory=dict)
    indexes: list[tuple[str, _Table, str]] = field(default_factory=list)

    def migrations(self, count: int) -> list[Migration]:
        return [self.migration() for _ in range(count)]

    def migration(self) -> Migration:
        self.number += 1
        name = f"{20260101000000 + self.number}_{self.number}"
        up, down, *loose = (self.random.choice(self._kinds()) if self.tables else self._table)()
        witness = f"INSERT INTO witness.runs (name) VALUES ('{name}')"
        if loose:
            # What runs outside comes first; the witness is in the transaction.
            return Migration(name, up, f"-- rollback: no-transaction\n{down};\n{witness};\n", tuple(loose))
        statements = [down, witness] if self.random.random() < 0.5 else [witness, down]
        return Migration(name, up, self._dressed(statements))

    def _kinds(self) -> list:
        kinds = [
            *(self._table, self._table, self._column, self._index, self._enum, self._sequence, self._view),
            *(self._insert, self._rename, self._default, self._check, self._trigger, self._comment, self._update),
            *(self._foreign_key, self._function),
        ]
        if self.enums:
            kinds += [self._enum_value] * 2
        if self.marked:
            kinds += [self._dropped_concurrently] * 4
            if self.indexes:
                kinds += [self._built_concurrently] * 4
        return kinds

    def _dressed(self, statements: list[str]) -> str:
        """The same script, with what scripts have around their statements."""
        pick = self.random
        around = [
            "-- a ; in a comment, and 'a quote\n",
            "/* one; /* inside; */ another */",
            "SELECT 'a;b', E'it\\'s; 100%', $x$;'$x$, 1 AS \"%s\"",
            "DO $$ BEGIN RAISE NOTICE 'done; %', 1; END $$",
            "CREATE TEMP TABLE IF NOT EXISTS scratch (id int)",
            "SET LOCAL standard_conforming_strings = on",
        ]
        parts: list[str] = []
        for statement in statements:
            for extra in pick.sample(around, pick.choice((0, 0, 1, 2))):
                parts.append(extra if extra.startswith(("-", "/")) else f"{extra};\n")
            parts.append(f"{statement};\n")
        script = "".join(parts)
        if "BEGIN;" not in script and pick.random() < 0.2:
            script = f"BEGIN;\n{script}COMMIT;\n"
        return script.replace("\n", "\r\n") if pick.random() < 0.1 else script

    def _new(self, prefix: str) -> str:
        kind = self.random.choice(_NAMES)
        return f'{kind[:-1]}{self.number}"' if kind.endswith('"') else f"{prefix}{self.number}"

    def _any(self) -> _Table:
        return self.random.choice(self.tables)

    def _table(self):
        name = self._new("t")
        rows = self.random.choice((0, 0, 3))
        self.tables.append(_Table(name))
        up = f"CREATE TABLE {name} (id int PRIMARY KEY, a text DEFAULT 'x;y', b int NOT NULL DEFAULT 1);"
        if rows:
            up += f"INSERT INTO {name} (id) SELECT generate_series(1, {rows});"
        return up, f"DROP TABLE {name}"

    def _column(self):
        table, name = self._any(), self._new("c")
        up = f"ALTER TABLE {table.name} ADD COLUMN {name} text;"
        if self.random.random() < 0.5:
            up += f"UPDATE {table.name} SET {name} = 'lost';"
        return up, f"ALTER TABLE {table.name} DROP COLUMN {name}"

    def _index(self):
        table, name = self._any(), self._new("i")
        self.indexes.append((name, table, "(b)"))
        return f"CREATE INDEX {name} ON {table.name} (b);", f"DROP INDEX {name}"

    def _dropped_concurrently(self):
        table, name = self._any(), self._new("i")
        return f"CREATE INDEX {name} ON {table.name} (a);", f"DROP INDEX CONCURRENTLY {name}", name

    def _built_concurrently(self):
        name, table, what = self.indexes.pop(self.random.randrange(len(self.indexes)))
        return f"DROP INDEX {name};", f"CREATE INDEX CONCURRENTLY {name} ON {table.name} {what}", name

    def _enum(self):
        table, name = self._any(), self._new("e")
        column = f"e{self.number}"
        self.enums[name] = ["one", "two"]
        self.enum_columns[name] = (table, column)
        up = f"CREATE TYPE {name} AS ENUM ('one', 'two'); ALTER TABLE {table.name} ADD COLUMN {column} {name};"
        up += f"UPDATE {table.name} SET {column} = 'two';"
        return up, f"ALTER TABLE {table.name} DROP COLUMN {column};\nDROP TYPE {name}"

    def _enum_value(self):
        name = self.random.choice(list(self.enums))
        table, column = self.enum_columns[name]
        kept = ", ".join(f"'{value}'" for value in self.enums[name])
        value = f"three{self.number}"
        self.enums[name].append(value)
        down = (
            f'BEGIN;\nCREATE TYPE "e_new" AS ENUM ({kept});\n'
            f'ALTER TABLE {table.name} ALTER COLUMN "{column}" TYPE "e_new" USING ("{column}"::text::"e_new");\n'
            f'ALTER TYPE {name} RENAME TO "e_old";\nALTER TYPE "e_new" RENAME TO {name};\nDROP TYPE "e_old";\nCOMMIT'
        )
        return f"ALTER TYPE {name} ADD VALUE '{value}';", down

    def _sequence(self):
        name = self._new("s")
        return f"CREATE SEQUENCE {name} START 7 INCREMENT 3 CACHE 5;", f"DROP SEQUENCE {name}"

    def _view(self):
        table, name = self._any(), self._new("v")
        return f"CREATE VIEW {name} AS SELECT id FROM {table.name};", f"DROP VIEW {name}"

    def _insert(self):
        table = self._any()
        identity = 1000 + self.number
        return f"INSERT INTO {table.name} (id) VALUES ({identity});", f"DELETE FROM {table.name} WHERE id = {identity}"

    def _update(self):
        table = self._any()
        return f"UPDATE {table.name} SET b = b + 1;", f"UPDATE {table.name} SET b = b - 1"

    def _rename(self):
        table, new = self._any(), self._new("r")
        old, table.name = table.name, new
        return f"ALTER TABLE {old} RENAME TO {new};", f"ALTER TABLE {new} RENAME TO {old}"

    def _default(self):
        table = self._any()
        old, table.default = table.default, f"'n{self.number}'"
        change = f"ALTER TABLE {table.name} ALTER COLUMN a SET DEFAULT"
        return f"{change} {table.default};", f"{change} {old}"

    def _check(self):
        table, name = self._any(), self._new("k")
        return (
            f"ALTER TABLE {table.name} ADD CONSTRAINT {name} CHECK (b > -{self.number + 100});",
            f"ALTER TABLE {table.name} DROP CONSTRAINT {name}",
        )

    def _foreign_key(self):
        table, other, name = self._any(), self._any(), self._new("f")
        column = f"f{self.number}"
        return (
            f"ALTER TABLE {table.name} ADD COLUMN {column} int CONSTRAINT {name} REFERENCES {other.name};",
            f"ALTER TABLE {table.name} DROP COLUMN {column}",
        )

    def _function(self):
        name = f"g{self.number}"
        return (
            f"CREATE FUNCTION {name}(x int) RETURNS int LANGUAGE sql "
            "BEGIN ATOMIC SELECT CASE WHEN x > 1 THEN 1 ELSE 0 END; SELECT 2; END;",
            f"DROP FUNCTION {name}",
        )

    def _trigger(self):
        table, name = self._any(), f"h{self.number}"
        return (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NEW; END; $f$;"
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table.name} FOR EACH ROW EXECUTE FUNCTION {name}();",
            f"DROP TRIGGER {name} ON {table.name};\nDROP FUNCTION {name}",
        )

    def _comment(self):
        table = self._any()
        old, table.comment = table.comment, f"'since {self.number}'"
        change = f"COMMENT ON COLUMN {table.name}.b IS"
        return f"{change} {table.comment};", f"{change} {old}"


# Names and not oids: what a script dropped and made again is equal to what it was.
_CATALOG = """
WITH mine AS (
    SELECT c.* FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE '\\_prisma\\_migrations%'
), lines AS (
    SELECT 'relation' AS what, format('%s %s %s %s %s', relname, relkind, relpersistence, relowner::regrole,
        array_to_string(reloptions, ',')) AS line FROM mine
    UNION ALL SELECT 'column', format('%s %s %s %s %s %s', c.relname,
        row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
        a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
        FROM mine c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    UNION ALL SELECT 'constraint', format('%s %s %s %s', c.relname, k.conname, pg_get_constraintdef(k.oid),
        k.convalidated) FROM pg_constraint k JOIN mine c ON c.oid = k.conrelid
    UNION ALL SELECT 'index', format('%s valid %s ready %s', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready)
        FROM pg_index i JOIN mine c ON c.oid = i.indexrelid
    UNION ALL SELECT 'sequence', s.sequencename || ' ' || s::text FROM pg_sequences s WHERE s.schemaname = 'public'
    UNION ALL SELECT 'view', format('%s %s', relname, pg_get_viewdef(oid)) FROM mine WHERE relkind = 'v'
    UNION ALL SELECT 'function', pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'trigger', format('%s %s', pg_get_triggerdef(t.oid), t.tgenabled)
        FROM pg_trigger t JOIN mine c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL SELECT 'type', format('%s %s %s', t.typname, t.typtype,
        (SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid))
        FROM pg_type t WHERE t.typnamespace = 'public'::regnamespace AND t.typname NOT LIKE '%\\_prisma\\_migrations%'
    UNION ALL SELECT 'comment', format('%s %s %s', c.relname, d.objsubid, d.description)
        FROM pg_description d JOIN mine c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass
    UNION ALL SELECT 'rows', relname || ' ' || query_to_xml(format('SELECT t::text AS r FROM %I t ORDER BY 1', relname),
        true, true, '')::text FROM mine WHERE relkind = 'r'
)
SELECT what, line FROM lines ORDER BY 1, 2
"""


class Database:
    """A history in a database: applied as ``migrate deploy`` leaves it, and looked at over a connection of its own."""

    def __init__(self, stack, migrations: list[Migration]) -> None:
        self.stack = stack
        self.migrations = migrations
        self.eye = stack.connect(user="app")
        for each in migrations:
            stack.write(each.name, each.up, each.down)

    def build(self) -> None:
        """Everything anew. ``catalogs[n]`` is what the database is with the first n migrations."""
        self.eye.execute("DROP SCHEMA public CASCADE; DROP SCHEMA IF EXISTS witness CASCADE; CREATE SCHEMA public")
        self.eye.execute(LEDGER)
        self.eye.execute("CREATE SCHEMA witness; CREATE TABLE witness.runs (name text NOT NULL)")
        self.catalogs = [self.catalog()]
        for each in self.migrations:
            self.deploy(each)
            self.catalogs.append(self.catalog())
        self.ledger = self.rows()

    def deploy(self, migration: Migration, connection=None) -> None:
        connection = connection or self.eye
        # In one transaction, as the oldest engines run it; a new enum value needs one of its own.
        connection.execute(migration.up)
        self.stack.clock += timedelta(minutes=1)
        connection.execute(
            "INSERT INTO _prisma_migrations (id, checksum, finished_at, migration_name, started_at, "
            "applied_steps_count) VALUES (%s, %s, %s, %s, %s, 1)",
            [str(uuid.uuid4()), migration.checksum, self.stack.clock, migration.name, self.stack.clock],
        )

    def catalog(self) -> list[tuple[str, str]]:
        return self.eye.execute(_CATALOG).fetchall()

    def rows(self) -> dict[str, tuple]:
        """The history: by id the row's name, whether it is rolled back, and everything else in it."""
        return {
            row[0]: row[1:]
            for row in self.eye.execute(
                "SELECT id, migration_name, rolled_back_at IS NOT NULL, checksum, finished_at, logs, started_at, "
                "applied_steps_count FROM _prisma_migrations ORDER BY started_at"
            ).fetchall()
        }

    def live(self) -> list[str]:
        return [name for name, rolled_back, *_rest in self.rows().values() if not rolled_back]

    def witnesses(self) -> list[str]:
        return [name for (name,) in self.eye.execute("SELECT name FROM witness.runs ORDER BY name").fetchall()]
