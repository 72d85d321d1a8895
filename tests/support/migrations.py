"""The SQL of the audit's migrations, without a database."""

import io
from importlib import resources

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

FIRST = "0001"


def statements_after(first: str = FIRST) -> list[str]:
    """Return the statements of all migrations after `first`, each in one line."""
    config, out = Config(), io.StringIO()
    config.set_main_option("script_location", str(resources.files("fraudops.audit.migrations")))
    script = ScriptDirectory.from_config(config)

    def steps(_revision: object, _context: object) -> object:
        return script._upgrade_revs("head", first)

    with EnvironmentContext(
        config, script, fn=steps, as_sql=True, starting_rev=first, destination_rev="head"
    ) as environment:
        environment.configure(dialect_name="postgresql", output_buffer=out)
        environment.run_migrations()
    lines = [line for line in out.getvalue().splitlines() if not line.startswith("--")]
    return [" ".join(each.split()) for each in "\n".join(lines).split(";") if each.strip()]
