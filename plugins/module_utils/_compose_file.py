# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compose files as they are written: which ones a project has, where a service's image stands, how to change its tag.

A change replaces the characters of the tag and nothing else. The YAML library only says where a scalar stands; the
text itself is never written again by it, so comments, quotes, order and line ends stay as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.connectin.rollback.plugins.module_utils import _env_file, _image_reference

# The names and their order are Compose's own.
FILE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_NAMES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
_VARIABLE = re.compile(r"\$\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?P<rest>[^}]*)\}|\$(?P<bare>[A-Za-z_][A-Za-z0-9_]*)")
# Of the rest only defaults and requirements keep the variable's own value in place; ${A+b} replaces it.
_KEEPS_VALUE = re.compile(r"(:?[-?].*)?", re.DOTALL)


class ComposeFileError(Exception):
    """A tag cannot be set without guessing; the text says where, why, and what to do."""


@dataclass(frozen=True)
class Change:
    """One tag that was set: the line as it was and as it is, without its line end; ``line`` counts from 1."""

    service: str
    file: str
    line: int
    before: str
    after: str


@dataclass(frozen=True)
class Spot:
    """Where an image is written: the scalar's span in the text of ``file`` and the value it means."""

    service: str
    file: str
    start: int
    end: int
    value: str


@dataclass(frozen=True)
class _Wish:
    """What has to be written: the image text, and the value of ``variable`` ('' when none is concerned)."""

    text: str
    variable: str = ""
    value: str = ""


@dataclass(frozen=True)
class Files:
    """The texts to work on, by path. ``env_path`` is the .env file, which may be missing from ``texts``."""

    compose: tuple[str, ...]
    env_path: str
    texts: Mapping[str, str]


def project_files(
    project_dir: str, asked: Sequence[str], names: Collection[str], compose_file: str = "", separator: str = ""
) -> list[str]:
    """The compose files of a project as absolute paths, in the order in which Compose merges them; [] when it has none.

    ``asked`` are the files that were named; without any, COMPOSE_FILE (``compose_file``, with COMPOSE_PATH_SEPARATOR)
    tells, and without that the names that Compose looks for among the ``names`` in the directory.
    """
    chosen = list(asked) or [name for name in compose_file.split(separator or os.pathsep) if name]
    if not chosen:
        base = next((name for name in FILE_NAMES if name in names), "")
        override = next((name for name in OVERRIDE_NAMES if name in names), "")
        chosen = [name for name in (base, override) if base and name]
    return [os.path.normpath(os.path.join(project_dir, name)) for name in chosen]


def set_tags(files: Files, tags: Mapping[str, str], yaml: Any) -> tuple[dict[str, str], list[Change]]:
    """The new texts by path and what was changed in them; nothing for a service that has its tag already.

    ``yaml`` is the PyYAML module, handed in since not every host has it. Raises ComposeFileError.
    """
    trees = {path: _compose(files.texts[path], path, yaml) for path in files.compose}
    texts = dict(files.texts)
    env_text = texts.get(files.env_path, "")
    variables: dict[str, tuple[str, str]] = {}
    edits: dict[str, list[tuple[int, int, str, str]]] = {}
    for service, tag in sorted(tags.items()):
        if not _image_reference.TAG.fullmatch(tag):
            raise ComposeFileError(
                f"{tag!r} cannot be the tag of {service}. Name one of letters, digits, '_', '.' and '-', at most 128."
            )
        spot = find_image(files, service, trees, yaml)
        wish = _wish(spot, tag, env_text)
        if wish.text != spot.value:
            edits.setdefault(spot.file, []).append((spot.start, spot.end, _in_source(spot, files, wish.text), service))
        if wish.variable:
            other, wanted = variables.setdefault(wish.variable, (service, wish.value))
            if wanted != wish.value:
                raise ComposeFileError(
                    f"{other} and {service} both take their image from {wish.variable} in {files.env_path}, so they "
                    f"cannot differ. Give both the same tag, or each a variable of its own in {spot.file}."
                )
    changes = []
    for path, spans in edits.items():
        texts[path], done = _replace_spans(path, texts[path], spans)
        changes += done
    for variable, (service, value) in variables.items():
        before = texts.get(files.env_path, "")
        entry = _env_file.find(before, variable)
        if entry and entry.value == value:
            continue
        texts[files.env_path] = _env_file.set_value(before, variable, value)
        changes.append(_env_change(files.env_path, service, variable, before, texts[files.env_path]))
    changed = {path: text for path, text in texts.items() if text != files.texts.get(path, "")}
    return changed, sorted(changes, key=lambda change: (change.service, change.file))


def sharing(files: Files, tags: Mapping[str, str], yaml: Any) -> dict[str, list[str]]:
    """The variables that set the tag of a service in ``tags`` and the image of others too: variable to those others."""
    trees = {path: _compose(files.texts[path], path, yaml) for path in files.compose}
    uses: dict[str, set[str]] = {}
    for tree in trees.values():
        services = _child(tree, "services", yaml)
        for name in _keys(services, yaml):
            image = _child(_child(services, name, yaml), "image", yaml)
            for match in _VARIABLE.finditer(getattr(image, "value", "") if isinstance(image, yaml.ScalarNode) else ""):
                uses.setdefault(match["braced"] or match["bare"], set()).add(name)
    env_text = files.texts.get(files.env_path, "")
    found = {}
    for service, tag in tags.items():
        variable = _wish(find_image(files, service, trees, yaml), tag, env_text).variable
        others = uses.get(variable, set()) - set(tags)
        if others:
            found[variable] = sorted(others)
    return found


def find_image(files: Files, service: str, trees: Mapping[str, Any], yaml: Any) -> Spot:
    """Where the image of a service is written: in the last of the files that sets it, as Compose merges them."""
    seen = []
    for path in reversed(files.compose):
        services = _child(trees[path], "services", yaml)
        node = _child(services, service, yaml)
        if node is None:
            continue
        seen.append(path)
        image = _child(node, "image", yaml)
        if image is not None:
            return _spot(files, service, path, node, image, trees[path], yaml)
        inherited = _inherited(node, services, yaml)
        if inherited:
            raise ComposeFileError(
                f"The image of {service} is inherited at {path}:{inherited}, from where others may take it too. "
                f"Write an image: line of its own for {service} there."
            )
    if seen:
        raise ComposeFileError(f"{service} has no image: in {', '.join(seen)}. Add one that names its repository.")
    known = sorted({name for tree in trees.values() for name in _keys(_child(tree, "services", yaml), yaml)})
    included = [path for path in files.compose if _child(trees[path], "include", yaml) is not None]
    hint = f" {', '.join(included)} includes further files: name those in compose_files." if included else ""
    raise ComposeFileError(
        f"There is no service {service} in {', '.join(files.compose)}; found {', '.join(known) or 'none'}. "
        f"Correct the name, or name the file that has it in compose_files.{hint}"
    )


def _inherited(node: Any, services: Any, yaml: Any, depth: int = 0) -> str:
    """Through what a service without an image of its own gets one, like ``7 (extends)``; '' when through nothing."""
    merged = _child(node, "<<", yaml)
    for source in merged.value if isinstance(merged, yaml.SequenceNode) else [merged]:
        if _child(source, "image", yaml) is not None or (
            source is not None and _inherited(source, services, yaml, depth + 1)
        ):
            return f"{node.start_mark.line + 1} (a YAML merge)"
    extends = _child(node, "extends", yaml)
    if extends is None:
        return ""
    line = f"{extends.start_mark.line + 1} (extends)"
    if _child(extends, "file", yaml) is not None or depth > 20:
        return line
    name = extends if isinstance(extends, yaml.ScalarNode) else _child(extends, "service", yaml)
    base = _child(services, getattr(name, "value", ""), yaml)
    if _child(base, "image", yaml) is not None or (base is not None and _inherited(base, services, yaml, depth + 1)):
        return line
    return ""


def _compose(text: str, path: str, yaml: Any) -> Any:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ComposeFileError(
            f"{path} is no YAML: {' '.join(str(error).split())}. See: docker compose -f {path} config -q"
        ) from error


def _child(node: Any, key: str, yaml: Any) -> Any:
    """The value node of a key in a mapping node, None when there is none; of a repeated key the last one counts."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in reversed(node.value) if name.value == key), None)


def _keys(node: Any, yaml: Any) -> list[str]:
    return [name.value for name, _value in node.value] if isinstance(node, yaml.MappingNode) else []


def _spot(files: Files, service: str, path: str, node: Any, image: Any, tree: Any, yaml: Any) -> Spot:
    where = f"{path}:{image.start_mark.line + 1}"
    advice = "Write it on that line as one text: image: repository:tag"
    if not isinstance(image, yaml.ScalarNode) or not image.tag.endswith(":str"):
        raise ComposeFileError(f"The image of {service} at {where} is not a text. {advice}")
    if image.style in ("|", ">"):
        raise ComposeFileError(f"The image of {service} at {where} is a block scalar. {advice}")
    # An alias yields the very node it names, so a node that is met twice is shared by an anchor and its aliases.
    if _occurrences(tree, image, yaml) > 1 or _occurrences(tree, node, yaml) > 1:
        raise ComposeFileError(
            f"The image of {service} at {where} is written under a YAML anchor that other places share, and these "
            f"would change with it. Write an image: line of its own for {service}."
        )
    text = files.texts[path]
    start, end = image.start_mark.index, image.end_mark.index
    # The node begins with its anchor and its tag, where it has them.
    properties = re.match(r"(?:[&!]\S*\s+)*", text[start:end])
    return Spot(service, path, start + (properties.end() if properties else 0), end, image.value)


def _occurrences(node: Any, wanted: Any, yaml: Any, known: dict[int, int] | None = None) -> int:
    """How often a node is reached from the root, by every way that aliases open."""
    known = {} if known is None else known
    if node is wanted:
        return 1
    if id(node) not in known:
        # An alias may lead back to where it stands: such a way is not walked again.
        known[id(node)] = 0
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [value for _name, value in node.value]
        known[id(node)] = sum(_occurrences(child, wanted, yaml, known) for child in children)
    return known[id(node)]


def _wish(spot: Spot, tag: str, env_text: str) -> _Wish:
    """What has to be written for a service to get ``tag``."""
    whole = _VARIABLE.fullmatch(spot.value)
    if whole:
        variable = _variable(spot, whole)
        entry = _env_file.find(env_text, variable)
        present = entry.value if entry else _default(whole)
        if not present or "$" in present:
            raise ComposeFileError(
                f"The image of {spot.service} is all in {variable} ({spot.file}), and the env file does not give it as "
                f"plain text, so its repository is not known. Write {variable}=repository:tag there once."
            )
        return _Wish(spot.value, variable, str(_image_reference.parse(present).with_tag(tag)))
    name, written = _split_tag(spot.value)
    in_tag = _VARIABLE.fullmatch(written)
    if in_tag:
        return _Wish(f"{name}:{written}", _variable(spot, in_tag), tag)
    if "$" in written:
        raise ComposeFileError(
            f"The tag of {spot.service} in {spot.file} is put together from pieces ({written}). Write it as one text, "
            f"or as one variable: {name}:${{TAG}}"
        )
    last = name.rpartition("/")[2]
    if not written and "$" in last:
        raise ComposeFileError(
            f"The image of {spot.service} in {spot.file} ends with {last}, which may hold its tag too. Write the tag "
            f"apart: {name}:tag"
        )
    return _Wish(f"{name}:{tag}")


def _split_tag(value: str) -> tuple[str, str]:
    """An image text as its name and its tag, '' without one; a digest is dropped, variables are opaque."""
    # Defaults like ${TAG:-v1} hold the very characters that are looked for: hide them under others first.
    hidden = _VARIABLE.sub(lambda match: "\0" * len(match[0]), value)
    end = hidden.find("@")
    end = len(hidden) if end < 0 else end
    colon = hidden.rfind(":", hidden.rfind("/", 0, end) + 1, end)
    return (value[:end], "") if colon < 0 else (value[:colon], value[colon + 1 : end])


def _variable(spot: Spot, match: re.Match[str]) -> str:
    if match["bare"]:
        return match["bare"]
    if not _KEEPS_VALUE.fullmatch(match["rest"]):
        raise ComposeFileError(
            f"The image of {spot.service} in {spot.file} uses {match[0]}, whose value is not that of the variable. "
            f"Write ${{{match['braced']}}}"
        )
    return match["braced"]


def _default(match: re.Match[str]) -> str:
    found = re.fullmatch(r":?-(.*)", match["rest"] or "", re.DOTALL)
    return found[1] if found and "$" not in found[1] else ""


def _in_source(spot: Spot, files: Files, value: str) -> str:
    """The scalar's new source: its quotes stay, and so does every character that both values share."""
    source = files.texts[spot.file][spot.start : spot.end]
    quote = source[:1] if source[:1] in ("'", '"') else ""
    inner = source[1:-1] if quote else source
    if inner != spot.value:
        raise ComposeFileError(
            f"The image of {spot.service} in {spot.file} is written with escapes or over several lines. Write it "
            "plainly: image: repository:tag"
        )
    return f"{quote}{value}{quote}"


def _replace_spans(path: str, text: str, spans: Sequence[tuple[int, int, str, str]]) -> tuple[str, list[Change]]:
    """The text with all spans replaced, and a change for each that differs; lines are those of the text as it was."""
    done = []
    for start, end, new, service in sorted(spans, reverse=True):
        if text[start:end] == new:
            continue
        before = _line_at(text, start)
        text = text[:start] + new + text[end:]
        done.append(Change(service, path, text.count("\n", 0, start) + 1, before, _line_at(text, start)))
    return text, done


def _env_change(path: str, service: str, variable: str, before: str, after: str) -> Change:
    old, new = _env_file.find(before, variable), _env_file.find(after, variable)
    assert new is not None
    return Change(service, path, new.line, _line_at(before, old.start) if old else "", _line_at(after, new.start))


def _line_at(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : len(text) if end < 0 else end].rstrip("\r")
