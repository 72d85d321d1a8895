"""`fraudops settings`: list every variable that a program reads.

Each has its type, its default and its meaning. Values are never shown, because some are secrets.
The list only marks the variables that are set.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import click
from rich.text import Text

from fraudops.settings import COMMAND_LINE, PREFIX, PROGRAMS, ProgramSettings, known_variables
from jobs.runner import any_state_option, json_option, notices, output, print_json, run


@dataclass(frozen=True)
class Setting:
    """One environment variable.

    `default` is None if there is none. `required`: a program does not start without the variable.
    """

    variable: str
    type: str
    default: Any
    description: str
    required: bool = False
    secret: bool = False
    programs: tuple[str, ...] = ()


def catalogue() -> list[Setting]:
    """Return every variable of every program and of the command line, sorted by name.

    A variable that several programs read occurs once and names them all.
    """
    merged = {
        name: Setting(name, "string", None, text, programs=("command line",))
        for name, text in COMMAND_LINE.items()
    }
    for program in PROGRAMS:
        for setting in settings_of(program):
            earlier = merged[setting.variable].programs if setting.variable in merged else ()
            merged[setting.variable] = replace(setting, programs=(*earlier, *setting.programs))
    return sorted(
        merged.values(),
        # The FRAUDOPS_ variables first, then those that other software defines.
        key=lambda setting: (not setting.variable.startswith(PREFIX), setting.variable),
    )


def settings_of(program: type[ProgramSettings]) -> Iterator[Setting]:
    """Yield the variables of one program, the members of nested groups included."""
    schema = program.model_json_schema(by_alias=False)
    name = program.__name__.removesuffix("Settings").removesuffix("Job").lower()
    aliases = {
        key: str(info.validation_alias)
        for key, info in program.model_fields.items()
        if info.validation_alias
    }
    yield from _group_settings(schema, schema.get("$defs", {}), PREFIX, aliases, name)


def _group_settings(
    schema: Mapping[str, Any],
    groups: Mapping[str, Any],
    prefix: str,
    aliases: Mapping[str, str],
    program: str,
) -> Iterator[Setting]:
    for key, shape in schema["properties"].items():
        # A reference is a group of settings. Its variables are PREFIX_GROUP__NAME.
        if "$ref" in shape:
            yield from _group_settings(
                groups[shape["$ref"].rsplit("/", 1)[1]],
                groups,
                f"{prefix}{key.upper()}__",
                {},
                program,
            )
            continue
        choices = shape.get("anyOf", [shape])
        yield Setting(
            variable=aliases.get(key, f"{prefix}{key.upper()}"),
            type=" or ".join(_type(choice) for choice in choices if choice.get("type") != "null"),
            default=shape.get("default"),
            description=shape.get("description", ""),
            required=key in schema.get("required", ()),
            secret=any(choice.get("format") == "password" for choice in choices),
            programs=(program,),
        )


def _type(shape: Mapping[str, Any]) -> str:
    """Return a JSON schema type in words, such as `integer >= 1, <= 65535`."""
    if "enum" in shape:
        return " | ".join(map(str, shape["enum"]))
    name = {"password": "secret", "path": "path"}.get(
        shape.get("format", ""),
        {"object": "JSON object", "array": "JSON list"}.get(shape["type"], shape["type"]),
    )
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [
        # `:g` would write a large integer in scientific notation.
        f"{sign} {shape[key]:g}" if shape[key] < 1e6 else f"{sign} {shape[key]}"
        for key, sign in signs.items()
        if key in shape
    ]
    return f"{name} {', '.join(limits)}".strip()


def _print(settings: list[Setting]) -> None:
    for setting in settings:
        default = (
            "required"
            if setting.required
            else "no default"
            if setting.default is None
            else f"default {'empty' if setting.default == '' else setting.default}"
        )
        is_set = ", set here" if setting.variable in os.environ else ""
        line = Text(setting.variable, style="bold")
        line.append(f"  {setting.type}, {default}{is_set}", style="not bold")
        output.print(line)
        output.print(Text(f"    {setting.description} ({', '.join(setting.programs)})"))


@click.command()
@any_state_option
@json_option
def command(as_json: bool) -> None:
    """List every setting with its type, default and meaning. Values are not shown."""
    settings = catalogue()
    unknown = sorted(
        name for name in os.environ if name.startswith(PREFIX) and name not in known_variables()
    )
    if as_json:
        print_json(
            {
                "settings": [
                    {**asdict(setting), "set": setting.variable in os.environ}
                    for setting in settings
                ],
                "unknown": unknown,
            }
        )
    else:
        _print(settings)
    if unknown:
        notices.print(
            f"[bold red]unknown:[/] {', '.join(unknown)}; programs refuse to start with an "
            "unknown variable: unset it or correct its name"
        )


if __name__ == "__main__":
    run(command)
