"""`fraudops verify`: what was signed about a version, by which key, when, and whether it is whole.

It believes no tag of the registry but the digest, which names what to verify. It decides nothing:
`promote`, `rollback` and the pods verify for themselves.
"""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from fraudops import endpoints
from fraudops.errors import BundleError, RefusedError
from fraudops.model.manifest import check_files, read_manifest
from fraudops.promotion.serving_record import UNSIGNED, ServingEntry, ServingRecord
from fraudops.registry import ModelVersion, Registry
from fraudops.registry.verdicts import read_signed
from fraudops.settings import PromoteJobSettings
from fraudops.signing.credentials import Credentials
from fraudops.signing.keys import PublicKeys, short
from fraudops.signing.verdicts import check_verdict
from fraudops.signing.waivers import read_waiver
from fraudops.state import State
from fraudops.terminal import one_line
from fraudops.wiring import read_record
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, output, print_json, run, state_option

FROM_BEFORE = (
    f"{UNSIGNED}: release 0.2.0 promoted it. It serves, and a rollback may go back to it, but it "
    "cannot be promoted before it is validated again"
)


@dataclass(frozen=True)
class VersionReport:
    """What was found of one version.

    `statements` says where they are: in the `registry`, or in the `serving record`. `refused` is
    why there is no valid signed verdict; the fields about the verdict are None then. `signer` and
    `waiver_signer` are ids of keys. `broken` says what is wrong with the registry's copy of the
    bundle. `files` counts its sealed files.
    """

    version: str
    digest: str | None
    statements: str
    refused: str | None = None
    passed: bool | None = None
    failed_gates: tuple[str, ...] = ()
    signer: str | None = None
    signed_at: str | None = None
    sample: bool | None = None
    waiver: dict[str, Any] | None = None
    waiver_signer: str | None = None
    unsigned: bool = False
    broken: str | None = None
    files: int = 0


def verify_version(
    registry: Registry, version: ModelVersion, record: ServingRecord, keys: PublicKeys
) -> VersionReport:
    """Verify the statements about a version and its bundle. Raises StoreDownError."""
    entry = _entry_of(record, version)
    found = _statements(registry, version, entry, keys)
    if entry and entry.signed_waiver:
        found = _with_waiver(found, entry, keys)
    try:
        with tempfile.TemporaryDirectory(prefix="fraudops-verify-") as name:
            registry.download_bundle(version, Path(name))
            manifest = read_manifest(Path(name), version.digest or "")
            check_files(Path(name), manifest)
    except BundleError as error:
        return replace(found, broken=str(error))
    return replace(found, files=len(manifest.files) + 1)


def _entry_of(record: ServingRecord, version: ModelVersion) -> ServingEntry | None:
    """Return the newest entry of exactly this bundle."""
    entries = (entry for entry in (record.current, *record.stack) if entry)
    wanted = (version.version, version.digest)
    return next((entry for entry in entries if (entry.version, entry.digest) == wanted), None)


def _statements(
    registry: Registry, version: ModelVersion, entry: ServingEntry | None, keys: PublicKeys
) -> VersionReport:
    """Verify the registry's verdict, or the serving record's if the registry has none."""
    found = VersionReport(version.version, version.digest, "registry")
    try:
        signed = Credentials(signed_verdict=read_signed(registry, version))
        if signed.signed_verdict is None and entry:
            found = replace(found, statements="serving record", unsigned=entry.unsigned)
            signed = entry.credentials
        verdict = check_verdict(signed.signed_verdict, version.digest or "", keys)
    except RefusedError as error:
        return replace(found, refused=FROM_BEFORE if found.unsigned else str(error))
    if verdict.version != version.version:
        return replace(found, refused=f"the verdict is about version {verdict.version}")
    if verdict.model_name != registry.model:
        return replace(found, refused=f"the verdict is about the model {verdict.model_name}")
    gates = verdict.gates
    return replace(
        found,
        passed=verdict.passed,
        failed_gates=tuple(str(gate.get("name")) for gate in gates if not gate.get("passed")),
        signer=verdict.signer,
        signed_at=verdict.at,
        sample=verdict.sample,
    )


def _with_waiver(found: VersionReport, entry: ServingEntry, keys: PublicKeys) -> VersionReport:
    try:
        waiver = read_waiver(entry.signed_waiver, entry.version, entry.digest, keys)
    except RefusedError as error:
        return replace(found, refused=str(error))
    names = ("reason", "who", "request", "at")
    shown = {name: getattr(waiver, name) for name in names}
    return replace(found, waiver=shown, waiver_signer=waiver.signer)


def lines(found: VersionReport) -> list[str]:
    """Return what a user reads, one fact in each line."""
    about = [f"version {found.version}, bundle {(found.digest or 'none')[:12]}"]
    if found.signer:
        about += [
            f"signed: bundle.json and verdict.json, by the verdict key {short(found.signer)}, at "
            f"{found.signed_at} (from the {found.statements})",
            f"verdict: {_verdict(found)}",
            f"trained on: {'the packaged sample' if found.sample else 'data of a file'}",
        ]
    if found.waiver and found.waiver_signer:
        waiver = found.waiver
        about.append(
            f"waiver: signed by the waiver key {short(found.waiver_signer)}, at {waiver['at']} for "
            f"{waiver['who']}, request {waiver['request']}: {waiver['reason']}"
        )
    if found.refused:
        about.append(f"not proven: {found.refused}")
    whole = f"whole: {found.files} files have the sha256 that the digest seals"
    return [*about, f"bundle: {found.broken or whole}"]


def _verdict(found: VersionReport) -> str:
    if found.passed:
        return "passed"
    return f"did not pass ({', '.join(found.failed_gates) or 'see its gates'})"


@on_cluster("promote", "jobs.verify")
@click.command(name="verify")
@click.argument("version")
@json_option
@state_option
def command(version: str, as_json: bool, state: State) -> None:
    """Show what was signed about VERSION (a number, or `latest`), and verify its bundle.

    Exits with 0 if a trusted key has signed the verdict and the registry's bundle is whole, also if
    the verdict is that the version did not pass. Exits with 65 if a signature is missing or
    refused, or if a file of the bundle is not the sealed one.
    """
    settings = PromoteJobSettings.from_environment()
    keys = PublicKeys.read(settings.signing.public_keys_of(state))
    registry = Registry(endpoints.mlflow_url(state), settings.model_name)
    record = read_record(settings.cluster, state)
    found = verify_version(registry, registry.find(version), record, keys)
    if as_json:
        print_json(asdict(found))
    else:
        for line in lines(found):
            output.print(one_line(line), markup=False)
    if found.refused or found.broken:
        wrong = "no valid signature proves it" if found.refused else "its bundle is not whole"
        raise RefusedError(f"version {found.version} is not verified: {wrong}")


if __name__ == "__main__":
    run(command)
