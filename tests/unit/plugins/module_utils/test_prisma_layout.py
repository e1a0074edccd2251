# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_config
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_layout as layout
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

FILE = "/srv/api/prisma.config.ts"
SECRET = "postgresql://app:s3cret@db/x"


def config(text, file=FILE):
    return _prisma_config.read_config(text, file, "/srv/api")


def with_url(expression, before=""):
    return config(f"{before}\nexport default defineConfig({{\n  datasource: {{ url: {expression} }},\n}})\n").url


def schema(text, file="/srv/api/prisma/schema.prisma"):
    return layout.read_schema({file: text})


def datasource(*lines):
    return "datasource db {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


@pytest.mark.parametrize(
    "text",
    [
        """
        import 'dotenv/config'
        import { defineConfig, env } from "prisma/config";
        // export default defineConfig({ schema: 'no' })
        export default defineConfig({
          /* schema: 'no', */
          schema: 'db/schema.prisma', // schema: 'no'
          migrations: { path: "db/migrations", seed: `tsx ${seed({ a: "}" })} // no */` },
          views: { path: 'x', },
          datasource: { url: env('DB_URL'), shadowDatabaseUrl: env('NO') },
        });
        """,
        """
        import type { PrismaConfig } from 'prisma'
        export default {
          "schema": `db/schema.prisma`,
          'migrations': { path: 'db/migrations' },
          datasource: { url: process.env.DB_URL! },
        } satisfies PrismaConfig
        """,
        """
        const path = require('node:path')
        const pattern = /['"`]\\/[/"]/
        const datasource = { url: process.env['DB_URL'] as string }
        const config: PrismaConfig = defineConfig({
          schema: path.join('db', 'schema.prisma'),
          migrations: { path: path.join(__dirname, 'db/migrations') },
          datasource,
        })
        module.exports = config
        """,
        "\ufeff// api\r\nexport default ({ schema: './db/schema.prisma',\r\nmigrations: "
        "{ path: path.resolve('db', 'migrations') }, datasource: { url: env<Env>('DB_URL') } }) as const\r\n",
    ],
)
def test_a_configuration_is_read_however_it_is_written(text):
    found = config(text)
    assert (found.schema, found.migrations) == ("/srv/api/db/schema.prisma", "/srv/api/db/migrations")
    assert (found.url.variables, found.schema_problem, found.migrations_problem) == (("DB_URL",), "", "")


@pytest.mark.parametrize(
    ("expression", "variables"),
    [
        ("env('A')", ("A",)),
        ('env("A")', ("A",)),
        ("env(`A`)", ("A",)),
        ("env<Env>('A')!", ("A",)),
        ("process.env.A", ("A",)),
        ("process.env?.A", ("A",)),
        ("process.env['A']", ("A",)),
        ('process.env?.["A"]', ("A",)),
        ("process.env.A!", ("A",)),
        ("process.env.A as string", ("A",)),
        ("(process.env.A as string)!", ("A",)),
        ("process.env.A ?? ''", ("A",)),
        ("process.env.A || undefined", ("A",)),
        ("`${process.env.A}`", ("A",)),
        ("process.env.A ?? process.env.B ?? ''", ("A", "B")),
        ("process.env.A || (process.env.B ?? env('C'))", ("A", "B", "C")),
        ("process.env.A ?? fail('no URL')", ("A",)),
        (f"process.env.A ?? '{SECRET}'", ("A",)),
        ("URL_OF_IT", ("A",)),
    ],
)
def test_the_variable_of_the_url_is_found(expression, variables):
    found = with_url(expression, "const URL_OF_IT: string = process.env.A ?? ''\nconst other = 1")
    assert (found.variables, found.literal, found.problem) == (variables, "", "")
    assert found.place == ("/srv/api/prisma.config.ts, line 4")


@pytest.mark.parametrize(
    "expression",
    [
        "build()",
        "`postgresql://${process.env.U}:${process.env.P}@db/x`",
        "`postgresql://app:s3cret@${host}/x`",
        "`${process.env.A}?schema=x`",
        "'postgresql://app:s3cret@' + host",
        "process.env[name]",
        "process.env.CI ? process.env.A : process.env.B",
        "changing",
        "unknown",
        "env.A",
        "env(name)",
        "loop",
        "new URL(x).href",
        "await secret('s3cret')",
    ],
)
def test_a_url_that_code_works_out_is_a_problem_with_its_line_and_the_option_to_give(expression):
    found = with_url(expression, "let changing = process.env.A; const loop = (loop)")
    assert not found.variables and not found.literal
    assert FILE in found.problem and "line " in found.problem and "env_variable" in found.problem
    assert "s3cret" not in found.problem
    if expression not in ("loop",):
        assert "line 3" in found.problem


def test_an_empty_url_is_a_problem():
    assert "is empty" in with_url("''").problem


def test_a_url_written_into_the_file_is_the_url_and_is_not_shown():
    for found in (with_url(f"'{SECRET}'"), schema(datasource('provider = "postgresql"', f'url = "{SECRET}"')).url):
        assert found.literal == SECRET and "s3cret" not in repr(found) and not found.problem


@pytest.mark.parametrize(
    ("text", "schema_read", "migrations_read"),
    [
        ("export default defineConfig({ ...base, schema: 'a', migrations: { path: 'm' } })", True, True),
        ("export default defineConfig({ schema: 'a', migrations: { path: 'm' }, ...base })", False, False),
        ("export default defineConfig({ schema: dir + '/a', migrations: { path: 'm' } })", False, True),
        ("export default defineConfig({ schema: 'a', migrations: { path: `${dir}/m` } })", True, False),
        ("export default defineConfig({ schema: 'a', migrations: { path: path.join(dir, 'm') } })", True, False),
        ("export default defineConfig({ schema: 'a', migrations: { ['path']: 'm' } })", True, False),
        ("export default defineConfig({ schema() { return 'a' }, migrations: { path: 'm' } })", False, True),
        ("export default defineConfig({ get schema() { return 'a' }, migrations: { path: 'm' } })", False, True),
        ("export default defineConfig(() => ({ schema: 'a' }))", False, False),
        ("export default withEnv(defineConfig({ schema: 'a' }))", False, False),
        ("export { default } from './other'", False, False),
        ("export default {}.x", False, False),
        ("", False, False),
    ],
)
def test_a_path_that_code_works_out_is_a_problem_with_its_line_and_the_option_to_give(
    text, schema_read, migrations_read
):
    found = config(text)
    assert (found.schema, found.schema_problem == "") == ("/srv/api/a" if schema_read else "", schema_read)
    assert (found.migrations, found.migrations_problem == "") == (
        "/srv/api/m" if migrations_read else "",
        migrations_read,
    )
    for problem in (found.schema_problem, found.migrations_problem):
        assert not problem or f"{FILE}, line 1" in problem and "path" in problem


@pytest.mark.parametrize("value", ["", "undefined, datasource: undefined, migrations: undefined"])
def test_what_a_configuration_leaves_out_is_left_out(value):
    found = config(f"export default defineConfig({{ schema: {value} }})" if value else "export default {}")
    assert found == _prisma_config.Config(FILE)


def test_paths_are_relative_to_the_configuration_and_cwd_is_the_project():
    text = """export default { schema: '../s.prisma', migrations: { path: path.join(process.cwd(), 'm') } }"""
    found = config(text, "/srv/api/.config/prisma.ts")
    assert (found.schema, found.migrations) == ("/srv/api/s.prisma", "/srv/api/m")


@pytest.mark.parametrize(
    "text",
    [
        "export default { schema: 'a }",
        "export default { schema: 'a\n' }",
        "export default { /* schema: 'a' }",
        "export default { schema: `a }",
        "export default { schema: `${'a' }",
    ],
)
def test_a_file_that_is_cut_off_is_refused_with_the_line(text):
    with pytest.raises(PrismaError, match=r"/srv/api/prisma.config.ts, line 1: .* is not closed"):
        config(text)


def test_a_file_nested_without_end_is_refused_and_not_a_traceback():
    with pytest.raises(PrismaError, match="nested too deeply"):
        config("export default `${" * 100000)


@pytest.mark.parametrize(
    "text",
    [
        "import { definePrismaConfig } from 'prisma/config'\nexport default definePrismaConfig({})",
        "import { defineConfig } from '@prisma-next/postgres/config'\nexport default defineConfig({})",
        "import { defineConfig } from '@prisma/orm-postgres/config'\nexport default defineConfig({})",
        "export default defineConfig({ contract: './contract.prisma' })",
    ],
)
def test_a_configuration_of_prisma_8_is_refused(text):
    with pytest.raises(PrismaError, match="Prisma 8"):
        config(text)


@pytest.mark.parametrize(
    ("lines", "provider", "variables"),
    [
        (['provider = "postgresql"', 'url = env("A")'], "postgresql", ("A",)),
        (['provider = "postgres"', 'url = env("A")'], "postgresql", ("A",)),
        (['url=env("A")', 'provider="postgresql"'], "postgresql", ("A",)),
        (['provider = "postgresql"', 'url = env("A")', 'directUrl = env("B")'], "postgresql", ("B",)),
        (['provider = "postgresql"', 'directUrl = env("B")', 'url = env("A")'], "postgresql", ("B",)),
        (['provider = "postgresql" // "mysql"', '// directUrl = env("B")', 'url = env("A")'], "postgresql", ("A",)),
        (['provider = "postgresql"', '/* directUrl = env("B") */ url = env("A")'], "postgresql", ("A",)),
        (['provider = "cockroachdb"', 'url = env("A")', 'shadowDatabaseUrl = env("S")'], "cockroachdb", ("A",)),
        (['provider = "mysql"', 'url = env("A")', 'relationMode = "prisma"'], "mysql", ("A",)),
    ],
)
def test_the_datasource_of_a_schema_is_read(lines, provider, variables):
    text = '// datasource x {\ngenerator c {\n  provider = "prisma-client-js"\n}\n' + datasource(*lines)
    found = schema(text + '/// it\'s a model {\nmodel A {\n  url String @default("datasource db {")\n}\n')
    assert (found.provider, found.url.variables) == (provider, variables)


def test_the_schemas_of_a_multi_schema_datasource_are_told():
    lines = ['provider = "postgresql"', 'schemas = ["auth", "public"]', 'extensions = [pg_trgm(schema: "x")]']
    found = schema(datasource(*lines))
    assert (found.schemas, found.url, found.line) == (("auth", "public"), None, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (datasource('provider = "postgresql"') * 2, "more than one datasource"),
        (datasource('provider = env("P")'), "line 2: the provider is no plain string"),
        ('model A {\n  a String @default("x)\n}\n', "line 2: a string that begins there is not closed"),
    ],
)
def test_a_schema_that_prisma_refuses_is_refused(text, said):
    with pytest.raises(PrismaError, match=said):
        schema(text)


def test_a_url_of_a_schema_in_another_form_is_a_problem():
    assert "env_variable" in schema(datasource('provider = "postgresql"', "url = A")).url.problem


@pytest.mark.parametrize(
    ("text", "provider"),
    [
        ('# Please do not edit\nprovider = "postgresql"\n', "postgresql"),
        ("provider='mysql'", "mysql"),
        ('provider = "sqlite" # "postgresql"\r\n', "sqlite"),
    ],
)
def test_the_provider_of_a_lock_is_read(text, provider):
    assert layout.read_lock(text, "lock") == provider


@pytest.mark.parametrize(
    "text", ["", '# provider = "postgresql"\n', '<<<<<<< HEAD\nprovider = "postgresql"\n=======\n>>>>>>> x\n']
)
def test_a_lock_without_a_provider_is_refused(text):
    with pytest.raises(PrismaError, match="names no provider"):
        layout.read_lock(text, "/m/migration_lock.toml")


@pytest.mark.parametrize("provider", ["mysql", "sqlite", "sqlserver", "mongodb", "cockroachdb", "Postgresql", ""])
def test_another_database_is_refused_with_where_it_is_said(provider):
    with pytest.raises(PrismaError) as caught:
        layout.require_postgresql(provider, "/m/lock")
    assert f'/m/lock says that the provider is "{provider}"' in caught.value.message
    assert ("lacks the lock" in caught.value.message) == (provider == "cockroachdb")


@pytest.mark.parametrize("provider", ["postgresql", "postgres"])
def test_postgresql_is_accepted_by_both_its_names(provider):
    layout.require_postgresql(provider, "/m/lock")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"prisma": {"schema": "db/s.prisma"}, "devDependencies": {"prisma": "^6.19.0"}}', ("db/s.prisma", "^6.19.0")),
        ('\ufeff{"dependencies": {"prisma": "5.22.0"}}', ("", "5.22.0")),
        ('{"prisma": "x", "devDependencies": [], "dependencies": {"prisma": 6}}', ("", "")),
        ("[]", ("", "")),
    ],
)
def test_what_package_json_says_of_prisma_is_read(text, expected):
    found = layout.read_package(text, "package.json")
    assert (found.schema, found.version) == expected


@pytest.mark.parametrize("text", ["{", "[" * 200000])
def test_a_broken_package_json_is_refused(text):
    with pytest.raises(PrismaError, match="package.json is no JSON"):
        layout.read_package(text, "package.json")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("6.19.3", (6, 19)),
        ("^6.19.0", (6, 19)),
        ("~5", (5, 0)),
        ("8.0.0-rc.1", (8, 0)),
        ("latest", (0, 0)),
        ("", (0, 0)),
        (">=6", (0, 0)),
    ],
)
def test_the_release_of_a_version_or_range(version, expected):
    assert layout.release(version) == expected


# What the command line interfaces of 5.22.0, 6.5.0, 6.6.0, 6.19.3 and 7.9.0 hand to the schema engine.
IN_SCHEMA = layout.Schema("/srv/api/prisma/schema/a/ds.prisma", 2, "postgresql", _prisma_config.Url("s", ("S",)))
NO_URL = layout.Schema("/srv/api/prisma/schema/a/ds.prisma", 2, "postgresql")
PLAIN = _prisma_config.Config(FILE, url=_prisma_config.Url("c", ("C",)), direct=_prisma_config.Url("d", ("D",)))
CLASSIC = _prisma_config.Config(
    FILE, engine="classic", url=_prisma_config.Url("c", ("C",)), direct=_prisma_config.Url("d", ("D",))
)


@pytest.mark.parametrize(
    ("version", "configuration", "read", "migrations", "variable"),
    [
        ("5.22.0", None, IN_SCHEMA, "prisma/migrations", "S"),
        ("6.5.0", None, IN_SCHEMA, "prisma/migrations", "S"),
        ("6.6.0", None, IN_SCHEMA, "prisma/schema/a/migrations", "S"),
        ("^6.19.0", None, IN_SCHEMA, "prisma/schema/a/migrations", "S"),
        ("", None, IN_SCHEMA, "prisma/schema/a/migrations", "S"),
        ("6.19.3", PLAIN, IN_SCHEMA, "prisma/schema/a/migrations", "S"),
        ("", PLAIN, IN_SCHEMA, "prisma/schema/a/migrations", "S"),
        ("6.19.3", CLASSIC, IN_SCHEMA, "prisma/schema/a/migrations", "D"),
        ("", CLASSIC, NO_URL, "prisma/schema/a/migrations", "D"),
        ("7.9.0", PLAIN, NO_URL, "prisma/schema/migrations", "C"),
        ("7.9.0", CLASSIC, NO_URL, "prisma/schema/migrations", "C"),
        ("", PLAIN, NO_URL, "prisma/schema/migrations", "C"),
    ],
)
def test_each_version_has_its_folder_of_migrations_and_its_variable(version, configuration, read, migrations, variable):
    found = layout.combine("/srv/api", version, configuration, "/srv/api/prisma/schema", True, read)
    assert (found.migrations, found.url.variables) == (f"/srv/api/{migrations}", (variable,))


def test_a_single_schema_has_its_migrations_beside_it_and_the_configuration_may_say_another_folder():
    for version in ("5.22.0", "6.19.3", "7.9.0", ""):
        read = layout.Schema("/srv/api/db/s.prisma", 2, "postgresql", _prisma_config.Url("s", ("S",)))
        assert layout.combine("/srv/api", version, None, read.file, False, read).migrations == "/srv/api/db/migrations"
        moved = _prisma_config.Config(FILE, migrations="/srv/api/m")
        assert layout.combine("/srv/api", version, moved, read.file, False, read).migrations == "/srv/api/m"


@pytest.mark.parametrize(
    ("version", "configuration", "said"),
    [
        ("7.9.0", None, "the datasource in prisma.config.ts, and there is none"),
        ("7.9.0", _prisma_config.Config(FILE), f"the datasource in {FILE}, and there is none"),
        ("6.19.3", None, "the datasource in /srv/api/schema.prisma, and there is none"),
        ("6.19.3", _prisma_config.Config(FILE, engine="js"), "driver adapter"),
    ],
)
def test_where_nothing_says_the_url_that_is_a_problem(version, configuration, said):
    found = layout.combine("/srv/api", version, configuration, "/srv/api/schema.prisma", False, layout.Schema())
    assert said in found.url.problem and "env_variable" in found.url.problem


def test_the_adapter_of_a_configuration_is_recognised():
    assert config("export default { engine: 'js', adapter: async () => new PrismaPg() }").engine == "js"
    assert config("export default { adapter() { return x } }").engine == "js"
    assert config("export default { engine: 'classic' }").engine == "classic"
    assert config("export default { engine: x }").engine == ""


def test_prisma_8_is_refused_unless_prisma_7_is_kept_beside_it():
    with pytest.raises(PrismaError, match=r"uses Prisma 8\.0\.0-rc\.1"):
        layout.combine("/srv/api", "8.0.0-rc.1", None, "", False, layout.Schema())
    beside = _prisma_config.Config("/srv/api/prisma7.config.ts", url=_prisma_config.Url("c", ("C",)))
    assert layout.combine("/srv/api", "8.0.0", beside, "/srv/api/s.prisma", False, NO_URL).url.variables == ("C",)
