"""The SQL of the audit's migrations without a database, and the way back to an older schema."""

import io

from alembic.runtime.environment import EnvironmentContext

from fraudops.audit.migrations import migration_scripts

FIRST = "0001"
# What each revision added, the newest first.
UNDO = {
    "0006": "ALTER TABLE predictions DROP COLUMN client; ALTER TABLE labels DROP COLUMN client; "
    "DROP INDEX predictions_entity_key; DROP TABLE refusals, label_imports",
    "0005": "ALTER TABLE promotions DROP COLUMN actor, DROP COLUMN authenticated, "
    "DROP COLUMN approver, DROP COLUMN signer",
    "0004": "ALTER TABLE promotions DROP COLUMN act, DROP COLUMN waiver_reason, DROP COLUMN behind",
    "0003": "DROP INDEX predictions_sample",
    "0002": "ALTER TABLE predictions DROP COLUMN features_sealed",
}


def back_to(revision: str) -> str:
    """Return SQL that makes a database of this release one of an older revision."""
    undone = [statement for number, statement in UNDO.items() if number > revision]
    return "; ".join([*undone, f"UPDATE fraudops_schema_version SET version_num = '{revision}'"])


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
