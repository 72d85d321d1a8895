"""Write the generated pages, then build the documentation site.

`python docs/build.py` writes both. With `--pages` it writes the pages alone, and with `--check`
it writes nothing and exits 1 when a page is stale.

The site is built from a copy of every Markdown page of the repository in its own place. A relative
link therefore works on the site as it works in the repository, and strict mode checks it.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = ROOT / ".site"
# Pages of the site that are not in docs/, and the files that a page may show.
SOURCES = (
    "*.md",
    "LICENSE",
    "docs/**/*.md",
    "docs/**/*.svg",
    "charts/fraudops/*.md",
    "benchmarks/results/*.md",
    "benchmarks/results/*.png",
)
MADE = "<!-- Made by `make docs`. Change the program, not this page. -->\n"
BEGIN, END = "<!-- made by `make docs` from the service -->", "<!-- /made -->"
Schema = Mapping[str, Any]


def pages() -> dict[Path, str]:
    """Return every page that is generated, with its text."""
    return {
        DOCS / "cli.md": command_page(),
        DOCS / "settings.md": settings_page(),
        DOCS / "http-api.md": http_page((DOCS / "http-api.md").read_text()),
    }


# -- the command line


def command_page() -> str:
    lines = [
        MADE,
        "# Commands\n",
        "`make install` puts the console script `fraudops` into `.venv/bin`. "
        "Each command has `--help`.",
        "Exit codes are in [Failures](operations/failures.md#exit-codes).\n",
    ]
    for name, command in commands():
        lines += [f"## fraudops {name}\n", *_command(name, command)]
    return "\n".join(lines).rstrip() + "\n"


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield each command that is no group, with the words that a user types for it."""
    from jobs.cli import COMMANDS, cli
    from jobs.cluster_status import command as cluster_status
    from services.supervisor.__main__ import cli as supervisor

    yield from supervisor.commands.items()
    yield "status --on-cluster", cluster_status
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {part}", found) for part, found in command.commands.items())
        else:
            yield name, command


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"fraudops {name}", max_content_width=200)
    yield f"{_prose(command.help or '')}\n"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```\n"
    yield "| option | meaning |\n|---|---|"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and record[0] != "--help":
            yield f"| `{_cell(record[0])}` | {_cell(_prose(record[1]))} |"
    yield ""


# -- the settings


def settings_page() -> str:
    from jobs.settings import catalogue

    rows = []
    for setting in catalogue():
        default = (
            "required"
            if setting.required
            else "none"
            if setting.default is None
            else "empty"
            if setting.default == ""
            else f"`{setting.default}`"
        )
        rows.append(
            f"| `{setting.variable}` | {_cell(setting.type)} | {default} "
            f"| {_cell(setting.description)} | {', '.join(setting.programs)} |"
        )
    return (
        "\n".join(
            [
                MADE,
                "# Settings\n",
                "Every program reads its settings from the environment, once, when it starts.",
                "An unknown name that begins with `FRAUDOPS_` is refused with exit code 64.",
                "`fraudops settings` prints the same list and marks what is set.",
                "In the cluster the chart sets them: see the [table of values]"
                "(../charts/fraudops/README.md#values).\n",
                "| variable | type | default | meaning | read by |",
                "|---|---|---|---|---|",
                *rows,
            ]
        )
        + "\n"
    )


# -- the service


def http_page(page: str) -> str:
    """Replace the text between the two marks with the description that the service gives."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"docs/http-api.md lacks the marks {BEGIN} and {END}: restore them")
    return f"{before}{BEGIN}\n{_service()}\n{END}{after}"


def openapi() -> Schema:
    """Return the OpenAPI document of a service that serves no model yet."""
    from services.inference.http.openapi import describe
    from services.inference.http.routes import ROUTES

    return describe(ROUTES, None)


def _service() -> str:
    document = openapi()
    lines = ["### Calls\n", "| call | what it does | answers | credential |", "|---|---|---|---|"]
    for path, methods in sorted(document["paths"].items()):
        for method, call in methods.items():
            codes = ", ".join(sorted(call["responses"]))
            name = f"`{method.upper()} {path}`"
            lines.append(f"| {name} | {call['summary']} | {codes} | {_credential(call)} |")
    lines.append("\n### Shapes\n")
    for name, shape in sorted(document["components"]["schemas"].items()):
        if shape.get("properties"):
            lines += [f"#### {name}\n", *_shape(shape)]
    return "\n".join(lines).rstrip()


def _credential(call: Schema) -> str:
    """Name who may make a call: the admin token's owner, a client, or everybody."""
    names = {name for option in call["security"] for name in option}
    return "admin token" if "admin" in names else "client's" if names else "none"


def _shape(shape: Schema) -> Iterator[str]:
    if shape.get("description"):
        yield f"{_prose(shape['description'])}\n"
    yield "| field | type | required |\n|---|---|---|"
    for field, kind in shape["properties"].items():
        required = "yes" if field in shape.get("required", ()) else "no"
        yield f"| `{field}` | {_cell(_type(kind))} | {required} |"
    yield ""


def _type(kind: Schema) -> str:
    if "$ref" in kind:
        return str(kind["$ref"]).rsplit("/", 1)[1]
    if "anyOf" in kind:
        return " or ".join(_type(choice) for choice in kind["anyOf"])
    if "enum" in kind:
        return " or ".join(f"`{choice}`" for choice in kind["enum"])
    if kind.get("type") == "array":
        bounds = [
            f"{word} {kind[key]:,}"
            for word, key in (("at least", "minItems"), ("at most", "maxItems"))
            if key in kind
        ]
        return (
            f"list of {_type(kind.get('items', {}))}{f', {chr(32).join(bounds)}' if bounds else ''}"
        )
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {kind[key]}" for key, sign in signs.items() if key in kind]
    if "pattern" in kind:
        limits.append(f"`{kind['pattern']}`")
    return " ".join([str(kind.get("type", "any")), *limits])


# -- text


def _prose(text: str) -> str:
    """Join the lines of each paragraph."""
    paragraphs = groupby(text.strip().splitlines(), key=lambda line: bool(line.strip()))
    return "\n\n".join(
        " ".join(line.strip() for line in lines) for filled, lines in paragraphs if filled
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


# -- the site


def build(target: Path) -> None:
    """Build the site in strict mode below `target`. Raises CalledProcessError.

    A warning ends strict mode: a page, a file or an anchor that a link names and that is missing.
    """
    shutil.rmtree(target, ignore_errors=True)
    for pattern in SOURCES:
        for source in ROOT.glob(pattern):
            copy = target / "source" / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    shutil.copyfile(DOCS / "mkdocs.yml", target / "mkdocs.yml")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file"]
    subprocess.run([*command, str(target / "mkdocs.yml")], check=True, cwd=target)


def write(check: bool) -> bool:
    """Write each generated page that is stale, or with `check` name it. Return whether any was."""
    stale = {path: text for path, text in pages().items() if _read(path) != text}
    for path, text in stale.items():
        if not check:
            path.write_text(text)
        word = "is stale: run `make docs`" if check else "written"
        sys.stderr.write(f"{path.relative_to(ROOT)} {word}\n")
    return bool(stale)


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Write the generated pages and build the site.")
    parser.add_argument("--check", action="store_true", help="Write nothing; 1 if a page is stale.")
    parser.add_argument("--pages", action="store_true", help="Write the generated pages only.")
    options = parser.parse_args(arguments)
    stale = write(options.check)
    if options.check or options.pages:
        return int(stale and options.check)
    try:
        build(SITE)
    except subprocess.CalledProcessError:
        sys.stderr.write("the site was not built: correct the links that are named above\n")
        return 1
    sys.stderr.write(f"{SITE.relative_to(ROOT)}/html/index.html is the site\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
