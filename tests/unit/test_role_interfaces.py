"""The roles' interfaces: defaults, argument specs and documentation say the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (CHECKOUT / "roles").iterdir() if path.is_dir())
TYPE_ROLES = ("application", "database", "frontend")
PYTHON_TYPES = {"str": str, "path": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}


def read(path: Path) -> dict:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def defaults(role: str) -> dict:
    return read(CHECKOUT / "roles" / role / "defaults/main.yml")


def specs(role: str) -> dict:
    return read(CHECKOUT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]


def options(role: str) -> dict:
    return specs(role)["interface" if role == "stack" else "main"]["options"]


STACK = sorted(defaults("stack"))


@pytest.mark.parametrize("role", ROLES)
def test_every_default_has_an_argument_spec(role):
    assert set(defaults(role)) <= set(options(role))


@pytest.mark.parametrize("role", ROLES)
def test_every_optional_argument_has_a_default(role):
    optional = {name for name, option in options(role).items() if not option.get("required")}
    # Nobody goes back to a release by default.
    assert optional - set(defaults(role)) - {"release"} == set()


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_name_the_same_values(role):
    specified = {name: option["default"] for name, option in options(role).items() if "default" in option}
    assert {name: stripped(value) for name, value in specified.items()} == {
        name: stripped(value) for name, value in defaults(role).items()
    }


def test_every_list_is_among_those_that_may_not_be_a_text():
    lists = {name for name, option in options("stack").items() if option["type"] == "list"}
    assert set(read(CHECKOUT / "roles/stack/vars/main.yml")["__rollback_lists"]) == lists


def stripped(value):
    """Return a value without the line end that a folded string carries."""
    return value.strip() if isinstance(value, str) else value


@pytest.mark.parametrize("name", STACK)
def test_a_default_is_of_the_type_that_its_argument_spec_names(name):
    value, option = defaults("stack")[name], options("stack")[name]
    assert isinstance(value, PYTHON_TYPES[option["type"]])
    # YAML's true is an int to Python, and no int to a user.
    assert isinstance(value, bool) == (option["type"] == "bool")
    if option["type"] == "list":
        assert all(isinstance(element, PYTHON_TYPES[option["elements"]]) for element in value)


@pytest.mark.parametrize("name", STACK)
def test_a_default_is_among_its_choices(name):
    value, option = defaults("stack")[name], options("stack")[name]
    if "choices" in option:
        assert set(value if isinstance(value, list) else [value]) <= set(option["choices"])


@pytest.mark.parametrize("role", ROLES)
def test_every_argument_is_described_in_whole_sentences(role):
    for entry in specs(role).values():
        for name, option in entry["options"].items():
            text = option["description"]
            for sentence in [text] if isinstance(text, str) else text:
                assert sentence.strip().endswith("."), f"{role}: {name}"


@pytest.mark.parametrize("role", ROLES)
def test_every_entry_point_with_an_argument_spec_has_its_tasks(role):
    for entry in specs(role):
        assert (CHECKOUT / "roles" / role / "tasks" / f"{entry}.yml").exists(), entry


@pytest.mark.parametrize("role", ROLES)
def test_a_role_does_something_when_it_is_used_alone(role):
    # Ansible runs a role without tasks/main.yml and reports success.
    assert (CHECKOUT / "roles" / role / "tasks/main.yml").exists()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_gets_its_variables_from_the_role_stack(role):
    meta = read(CHECKOUT / "roles" / role / "meta/main.yml")
    dependencies = [entry["role"] for entry in meta.get("dependencies", [])]
    assert dependencies == ([] if role == "stack" else ["connectin.rollback.stack"])


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_a_readme_that_names_its_entry_points(role):
    text = (CHECKOUT / "roles" / role / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# connectin.rollback.{role}\n")
    for entry in specs(role):
        assert f"`{entry}`" in text


@pytest.mark.parametrize("role", TYPE_ROLES)
@pytest.mark.parametrize("phase", ["plan", "prepare", "switch", "verify"])
def test_every_type_of_rollback_has_the_same_phases(role, phase):
    assert (CHECKOUT / "roles" / role / "tasks" / f"{phase}.yml").exists()


@pytest.mark.parametrize("name", [*sorted(options("stack")), "rollback_hosts"])
def test_every_variable_is_on_the_documentation_page(name):
    page = (CHECKOUT / "docs/variables.md").read_text(encoding="utf-8")
    assert f"| `{name}` |" in page or f"-e {name}=" in page


def test_the_documentation_page_is_what_the_argument_spec_says():
    made = subprocess.run(
        [sys.executable, str(CHECKOUT / "scripts/make-variables-doc"), "--check"], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr


def test_the_database_url_is_kept_out_of_messages_and_has_no_default():
    assert options("stack")["rollback_database_url"]["no_log"] is True
    assert defaults("stack")["rollback_database_url"] == ""


def named(node) -> set[str]:
    """Return the variables that tasks register or set, in blocks too."""
    found: set[str] = set()
    for task in node or []:
        for part in ("block", "rescue", "always"):
            found |= named(task.get(part))
        found |= {task["register"]} if "register" in task else set()
        found |= set(task.get("ansible.builtin.set_fact", {}))
    return found


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_role_is_the_interfaces_or_carries_the_roles_name(role):
    folder = CHECKOUT / "roles" / role
    names = set(defaults(role)) | set(read(folder / "vars/main.yml"))
    for path in (folder / "tasks").glob("*.yml"):
        names |= named(read(path) or [])
    allowed = ("rollback_", "__rollback_", f"{role}_", f"__{role}_")
    assert {name for name in names if not name.startswith(allowed)} == set()
