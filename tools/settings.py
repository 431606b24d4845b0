"""Apply files of settings that belong together, called overlays, to params.yaml.

    python -m tools.settings params/real.yaml      what published backbones need

An overlay has sections and keys as params.yaml has them, but only those that it sets.  It may add
entries where names are free, such as conditions.  All else in params.yaml stays as it is, comments
included.  An overlay that does not fit is refused, and changes nothing.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

from ruamel.yaml import YAML, MappingNode, Node, SequenceNode
from ruamel.yaml.error import YAMLError

from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError, printable
from stages.code import SECTIONS

Keys = tuple[str, ...]  # from the section down


def apply(overlay: Path) -> list[str]:
    """Write an overlay's settings into the file of parameters; return a line for each change.

    Raises UserError where the overlay is no such file or does not fit.
    """
    params.check(SECTIONS)
    path = params.file()
    before = path.read_text()
    settings = YAML(typ="safe").load(before)
    text = before
    lines = []
    for keys, old, new in changes(read_overlay(overlay), settings):
        text = with_value(text, keys, new)
        was = "new" if old is None else as_text(old)
        lines.append(printable(f"{'.'.join(keys)}: {was} -> {as_text(new)}"))
    path.write_text(text)
    try:
        params.check(SECTIONS)
    except UserError as error:
        path.write_text(before)
        raise UserError(f"{overlay} does not fit, nothing was changed.\n{error}") from None
    return lines


def read_overlay(path: Path) -> dict[str, Any]:
    """Return the sections of an overlay.

    Raises UserError where there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file; the overlays of this repository are in params/")
    try:
        overlay = _plain(YAML().load(path))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(overlay, dict):
        raise UserError(f"{path} holds no sections; write them as params.yaml has them")
    return overlay


def _plain(value: Any) -> Any:
    """Mappings and lists of their own type, with what they merge in.

    Numbers keep the way in which they are written: 0.00001 does not become 1e-05.
    """
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def changes(
    overlay: dict[str, Any], settings: dict[str, Any], above: Keys = ()
) -> Iterator[tuple[Keys, Any, Any]]:
    """Yield keys, old value (None: there is none) and new value of all that an overlay changes.

    above: the keys that lead to both.  Raises UserError where one has a value in place of the
    other's group of keys.
    """
    for name, new in overlay.items():
        keys = (*above, str(name))
        old = settings.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from changes(new, old, keys)
        elif isinstance(old, dict):
            raise UserError(f"{'.'.join(keys)} is a group of keys: name those that are to change")
        elif old != new:
            yield keys, old, new


def with_value(text: str, keys: Keys, value: Any) -> str:
    """Return YAML text in which a key has a value; it is added where it is not there."""
    # libyaml: the round-trip parser takes eight times as long.
    node = YAML(typ="safe").compose(text)
    for depth, name in enumerate(keys):
        entries = {key.value: (key, value_node) for key, value_node in node.value}
        if name not in entries:
            # What is below the missing key is a value, too.
            for key in reversed(keys[depth + 1 :]):
                value = {key: value}
            return _with_entry(text, node, name, value)
        key_node, node = entries[name]

    start = node.start_mark.index
    end = _end(node)
    new = as_text(value)
    if isinstance(node, SequenceNode) and not node.flow_style:
        # Its lines go, and the value moves up behind the key; comments between them stay.
        key_end = key_node.end_mark.index + len(":")
        comments = text[key_end:start].rstrip()
        return f"{text[:key_end]} {new}{comments}{text[end:]}"
    rest = text[end:]
    if rest.lstrip(" ").startswith("#"):
        # A comment behind the value stays in its column where there is room.
        spaces = len(rest) - len(rest.lstrip(" "))
        spaces = max(1, spaces + (end - start) - len(new))
        rest = " " * spaces + rest.lstrip(" ")
    return text[:start] + new + rest


def _with_entry(text: str, mapping: MappingNode, name: str, value: Any) -> str:
    """The text with one more entry at the end of a mapping."""
    if mapping.flow_style:
        end = mapping.end_mark.index - 1
        comma = ", " if mapping.value else ""
        return text[:end] + comma + as_text({name: value})[1:-1] + text[end:]

    first_key, _ = mapping.value[0]
    entry = _dumped({name: value}, flow=False).rstrip("\n")
    line_end = text.find("\n", _end(mapping))
    end = line_end if line_end >= 0 else len(text)
    return text[:end] + "\n" + indent(entry, " " * first_key.start_mark.column) + text[end:]


def _end(node: Node) -> int:
    """Where a node's text ends.  That of a block is its last value's: comments may follow it."""
    if isinstance(node, MappingNode) and not node.flow_style:
        _, last = node.value[-1]
        return _end(last)
    if isinstance(node, SequenceNode) and not node.flow_style:
        return _end(node.value[-1])
    return node.end_mark.index


def as_text(value: Any) -> str:
    """Return a value as YAML on one line."""
    return _dumped(value, flow=True).removesuffix("...\n").strip()


def _dumped(value: Any, flow: bool) -> str:
    yaml = YAML()
    yaml.default_flow_style = flow
    yaml.width = sys.maxsize
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.settings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overlay", type=Path, help="a YAML file such as params/real.yaml")
    overlay = parser.parse_args().overlay
    try:
        lines = apply(overlay)
    except UserError as error:
        sentences = [printable(line) for line in str(error).splitlines()]
        sys.exit("settings: error: " + "\n".join(sentences))
    if not lines:
        print(f"{params.file()} has all settings of {overlay} already")
        return
    print("\n".join(lines))
    print(
        f"{len(lines)} settings of {params.file()} changed; `dvc repro` runs what depends on it.\n"
        f"`git checkout HEAD {params.file()}` brings the committed settings back, all of them."
    )


if __name__ == "__main__":
    main()
