"""The SQL of the audit's migrations, without a database."""

import io

from alembic.runtime.environment import EnvironmentContext

from fraudops.audit.migrations import migration_scripts

FIRST = "0001"


def statements_after(first: str = FIRST) -> list[str]:
    """Return the statements of all migrations after `first`, each in one line."""
    (config, script), out = migration_scripts(), io.StringIO()

    def steps(_revision: object, _context: object) -> object:
        return script._upgrade_revs("head", first)

    with EnvironmentContext(
        config, script, fn=steps, as_sql=True, starting_rev=first, destination_rev="head"
    ) as environment:
        environment.configure(dialect_name="postgresql", output_buffer=out)
        environment.run_migrations()
    lines = [line for line in out.getvalue().splitlines() if not line.startswith("--")]
    return [" ".join(each.split()) for each in "\n".join(lines).split(";") if each.strip()]
