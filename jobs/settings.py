"""`fraudops settings`: every variable that a program reads, with its type, default and meaning.

Values are never shown, only whether one is set.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import click
from rich.text import Text

from fraudops.settings import COMMAND_LINE, PREFIX, PROGRAMS, ProgramSettings, known_variables
from jobs.runner import any_state_option, json_option, notices, output, print_json, run


@dataclass(frozen=True)
class Setting:
    """One variable;

    `default` is None where there is none, `required` where a program does not start without it.
    """

    variable: str
    type: str
    default: Any
    description: str
    required: bool = False
    secret: bool = False
    programs: tuple[str, ...] = field(default=())


def catalogue() -> list[Setting]:
    """Every variable of every program and of the command line, by name; one that several programs
    read stands once and names them all.
    """
    found = {
        name: Setting(name, "string", None, text, programs=("command line",))
        for name, text in COMMAND_LINE.items()
    }
    for program in PROGRAMS:
        for setting in settings_of(program):
            earlier = found[setting.variable].programs if setting.variable in found else ()
            found[setting.variable] = Setting(
                **{**asdict(setting), "programs": (*earlier, *setting.programs)}
            )
    return sorted(
        found.values(),
        key=lambda setting: (not setting.variable.startswith(PREFIX), setting.variable),
    )


def settings_of(program: type[ProgramSettings]) -> Iterator[Setting]:
    """The variables of one program, groups unfolded."""
    schema = program.model_json_schema(by_alias=False)
    name = program.__name__.removesuffix("Settings").removesuffix("Job").lower()
    aliases = {
        key: str(info.validation_alias)
        for key, info in program.model_fields.items()
        if info.validation_alias
    }
    yield from _of_group(schema, schema.get("$defs", {}), PREFIX, aliases, name)


def _of_group(
    schema: Mapping[str, Any],
    groups: Mapping[str, Any],
    prefix: str,
    aliases: Mapping[str, str],
    program: str,
) -> Iterator[Setting]:
    for key, shape in schema["properties"].items():
        if "$ref" in shape:
            yield from _of_group(
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
    if "enum" in shape:
        return " | ".join(map(str, shape["enum"]))
    name = {"password": "secret", "path": "path"}.get(
        shape.get("format", ""), {"object": "JSON object"}.get(shape["type"], shape["type"])
    )
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [
        f"{sign} {shape[word]:g}" if shape[word] < 1e6 else f"{sign} {shape[word]}"
        for word, sign in words.items()
        if word in shape
    ]
    return f"{name} {', '.join(limits)}".strip()


def _print(settings: list[Setting]) -> None:
    for setting in settings:
        default = (
            "required"
            if setting.required
            else "no default"
            if setting.default is None
            else f"default {setting.default}"
        )
        line = Text(setting.variable, style="bold")
        line.append(
            f"  {setting.type}, {default}{', set here' if setting.variable in os.environ else ''}",
            style="not bold",
        )
        output.print(line)
        output.print(Text(f"    {setting.description} ({', '.join(setting.programs)})"))


@click.command()
@any_state_option
@json_option
def command(as_json: bool) -> None:
    """Every setting, with its type, default and meaning; values are not shown."""
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
            f"[bold red]unknown:[/] {', '.join(unknown)}; a program refuses to start with it: unset it or correct the name"
        )


if __name__ == "__main__":
    run(command)
