# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _prisma_project as project
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

SCHEMA = 'datasource db {\n  provider = "postgresql"\n  url = env("A")\n}\n'
CONFIG = "export default defineConfig({ datasource: { url: env('C') } })"
URL = "postgresql://app:s3cret@db/x"


@pytest.fixture
def api(tmp_path):
    """Writes the files of a project; gives its folder."""

    def write(files):
        for name, text in files.items():
            file = tmp_path / "api" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return str(tmp_path / "api")

    return write


def params(**given):
    return {"project": None, "path": [], "database_url": None, "env_file": None, "env_variable": None, **given}


def applied(folder, **given):
    filled, notes = project.apply(params(project=folder, **given))
    chosen = {key: str(value).replace(folder, "API") for key, value in filled.items() if value and key != "project"}
    return chosen, notes


def refused(folder, **given):
    with pytest.raises(PrismaError) as caught:
        project.apply(params(project=folder, **given))
    assert "s3cret" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("files", "path", "env_file", "variable"),
    [
        ({"prisma/schema.prisma": SCHEMA, ".env": "A=x"}, "prisma/migrations", ".env", "A"),
        ({"prisma/schema.prisma": SCHEMA, "prisma/.env": "A=x"}, "prisma/migrations", "prisma/.env", "A"),
        ({"prisma/schema.prisma": SCHEMA, ".env": "A=x", "prisma/.env": "A=y"}, "prisma/migrations", ".env", "A"),
        (
            {"prisma/schema.prisma": SCHEMA, ".env": "B=x", "prisma/.env": "A=y"},
            "prisma/migrations",
            "prisma/.env",
            "A",
        ),
        (
            {"prisma/schema.prisma": SCHEMA, ".env": "A=\n", "prisma/.env": "A=y"},
            "prisma/migrations",
            "prisma/.env",
            "A",
        ),
        ({"schema.prisma": SCHEMA, "prisma/schema.prisma": "", ".env": "A=x"}, "migrations", ".env", "A"),
        (
            {"db/s.prisma": SCHEMA, "package.json": '{"prisma": {"schema": "./db/s.prisma"}}', "db/.env": "A=x"},
            "db/migrations",
            "db/.env",
            "A",
        ),
        (
            {
                "db/s.prisma": SCHEMA.replace("A", "B"),
                "prisma/schema.prisma": SCHEMA,
                "package.json": '{"prisma": {"schema": "db/s.prisma"}, "devDependencies": {"prisma": "^7.0.0"}}',
                "prisma.config.ts": CONFIG,
                ".env": "C=x",
            },
            "prisma/migrations",
            ".env",
            "C",
        ),
        (
            {"prisma/schema/m.prisma": "model A {\n}\n", "prisma/schema/sub/d.prisma": SCHEMA, "prisma/.env": "A=x"},
            "prisma/schema/sub/migrations",
            "prisma/.env",
            "A",
        ),
        (
            {"prisma.config.js": CONFIG, "prisma.config.ts": "export default x", "schema.prisma": "", ".env": "C=x"},
            "migrations",
            ".env",
            "C",
        ),
        (
            {
                "prisma7.config.mts": CONFIG.replace("env('C')", "process.env.D ?? process.env.C"),
                "prisma.config.ts": "import { definePrismaConfig } from 'prisma/config'",
                "schema.prisma": "",
                ".env": "C=x",
            },
            "migrations",
            ".env",
            "C",
        ),
        (
            {".config/prisma.ts": CONFIG, "prisma/schema.prisma": "", ".env": "C=x"},
            "prisma/migrations",
            ".env",
            "C",
        ),
    ],
)
def test_what_a_project_says_is_filled_in(api, files, path, env_file, variable):
    assert applied(api(files)) == (
        {"path": f"['API/{path}']", "env_file": f"API/{env_file}", "env_variable": variable},
        [],
    )


def test_what_is_given_explicitly_wins(api, tmp_path):
    folder = api({"prisma/schema.prisma": SCHEMA, ".env": "A=x\nB=y\n"})
    other = tmp_path / "compose.env"
    other.write_text("A=z\n")
    assert applied(folder, path=["/m"], env_variable="B")[0] == {
        "path": "['/m']",
        "env_variable": "B",
        "env_file": "API/.env",
    }
    assert applied(folder, env_file=str(other))[0]["env_file"] == str(other)
    assert applied(folder, database_url=URL)[0] == {"path": "['API/prisma/migrations']", "database_url": URL}


def test_a_problem_matters_only_where_its_option_is_not_given(api):
    text = "export default defineConfig({ schema: where(), datasource: { url: build() } })"
    folder = api({"prisma.config.ts": text, ".env": "B=x", "prisma/schema.prisma": SCHEMA})
    assert "schema is worked out by code" in refused(folder, env_variable="B")
    assert "the URL is worked out by code" in refused(folder, path=["/m"])
    assert applied(folder, path=["/m"], env_variable="B")[0]["env_file"] == "API/.env"
    assert applied(folder, path=["/m"], database_url=URL)[0]["database_url"] == URL


def test_a_module_without_migrations_gets_the_url_alone(api):
    text = "export default defineConfig({ migrations: { path: where() }, datasource: { url: env('C') } })"
    folder = api({"prisma.config.ts": text, ".env": "C=x", "prisma/schema.prisma": ""})
    given = {key: value for key, value in params(project=folder).items() if key != "path"}
    filled, notes = project.apply(given)
    assert filled == {**given, "env_file": f"{folder}/.env", "env_variable": "C"} and not notes


def test_a_url_in_the_schema_is_used_with_advice_and_not_shown(api):
    folder = api({"prisma/schema.prisma": SCHEMA.replace('env("A")', f'"{URL}"'), ".env": "B=x"})
    filled, notes = applied(folder)
    assert filled["database_url"] == URL and len(notes) == 1
    assert f"{folder}/prisma/schema.prisma, line 3" in notes[0] and "s3cret" not in notes[0]
    assert "database_url" not in applied(folder, env_variable="B")[0]
    assert "Name the variable with env_variable" in refused(folder, env_file=f"{folder}/.env")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "Prisma would read it from API/.env or API/prisma/.env; there is no such file"),
        ({".env": "B=x"}, "which API/.env does not define"),
        ({".env": "B=x", "prisma/.env": "A="}, "which API/.env and API/prisma/.env do not define"),
    ],
)
def test_a_variable_that_is_nowhere_is_told_with_where_it_was_looked_for(api, env, said):
    folder = api({"prisma/schema.prisma": SCHEMA, **env})
    message = refused(folder).replace(folder, "API")
    assert message.startswith("API/prisma/schema.prisma, line 3 takes the URL from A") and said in message
    assert "env_file" in message


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"prisma/schema.prisma": SCHEMA.replace("postgresql", "mysql")}, 'line 2 says that the provider is "mysql"'),
        ({"prisma/schema.prisma": SCHEMA.replace("postgresql", "cockroachdb")}, "lacks the lock"),
        (
            {
                "prisma/schema.prisma": SCHEMA,
                ".env": "A=x",
                "prisma/migrations/migration_lock.toml": 'provider = "sqlite"',
            },
            'migration_lock.toml says that the provider is "sqlite"',
        ),
        ({"README.md": ""}, "holds no Prisma project"),
        ({"package.json": '{"prisma": {"schema": "no.prisma"}}'}, "no.prisma, which is not there"),
        ({"prisma.config.ts": "export default { schema: 'no' }"}, "API/no, which is not there"),
        ({"package.json": '{"devDependencies": {"prisma": "^8.0.0"}}'}, "uses Prisma ^8.0.0"),
        ({"node_modules/prisma/package.json": '{"version": "8.1.0"}', "package.json": "{}"}, "uses Prisma 8.1.0"),
        ({"prisma.config.ts": "export default { contract: 'x' }"}, "Prisma 8"),
        ({"schema.prisma/x": ""}, "holds no Prisma project"),
    ],
)
def test_a_project_that_cannot_be_rolled_back_is_refused(api, files, said):
    folder = api(files)
    assert said in refused(folder).replace(folder, "API")


def test_migrations_of_another_database_are_refused_without_a_project_too(api):
    folder = api({"migration_lock.toml": 'provider = "mysql"\n'})
    with pytest.raises(PrismaError, match='provider is "mysql"'):
        project.apply(params(path=["/nowhere", "git:/srv@v1:m", folder], database_url=URL))
    api({"migration_lock.toml": 'provider = "postgresql"\n'})
    given = params(path=["/nowhere", "git:/srv@v1:m", folder], database_url=URL)
    assert project.apply(given) == (given, [])


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        assert "is no folder on the host" in refused(str(tmp_path / name))


def test_the_installed_version_counts_and_is_found_above_as_node_finds_it(api, tmp_path):
    folder = api({"package.json": '{"devDependencies": {"prisma": "^6.0.0"}}', "schema.prisma": SCHEMA})
    assert project.read(folder).version == "^6.0.0"
    above = tmp_path / "node_modules" / "prisma" / "package.json"
    above.parent.mkdir(parents=True)
    above.write_text('{"name": "prisma", "version": "6.5.0"}')
    assert project.read(folder).version == "6.5.0"


def test_links_are_followed_and_one_that_leads_back_up_ends(api, tmp_path):
    folder = api({"prisma/schema/d.prisma": SCHEMA, "prisma/schema/README.md": 'datasource "', ".env": "A=x"})
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "m.prisma").write_text('datasource other {\n  provider = "mysql"\n}\n')
    os.symlink(folder + "/prisma/schema", folder + "/prisma/schema/again")
    assert applied(folder)[0]["path"] == "['API/prisma/schema/migrations']"
    os.symlink(tmp_path / "shared", folder + "/prisma/schema/shared")
    assert "more than one datasource" in refused(folder)
    os.symlink(folder, tmp_path / "current")
    os.unlink(folder + "/prisma/schema/shared")
    assert project.read(str(tmp_path / "current")).migrations == f"{tmp_path}/current/prisma/schema/migrations"


def test_a_pipe_or_a_huge_file_or_folder_is_refused_and_not_read(api, monkeypatch):
    folder = api({"prisma/schema/d.prisma": SCHEMA, "prisma/schema/b.prisma": ""})
    os.mkfifo(folder + "/prisma/schema/p.prisma")
    assert "p.prisma is no plain file" in refused(folder)
    os.unlink(folder + "/prisma/schema/p.prisma")
    monkeypatch.setattr(project, "FILE_LIMIT", 10)
    assert "so it is not read" in refused(folder)
    monkeypatch.setattr(project, "ENTRY_LIMIT", 1)
    assert "holds more than 1 files" in refused(folder)


def test_a_link_in_a_circle_is_refused_with_its_path(api):
    folder = api({"prisma/schema/d.prisma": SCHEMA})
    os.symlink("x.prisma", folder + "/prisma/schema/x.prisma")
    assert "Cannot read" in refused(folder) and "x.prisma" in refused(folder)
