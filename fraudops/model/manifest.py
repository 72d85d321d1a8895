"""The manifest of a bundle: all files of one model version, in one folder, under one digest.

bundle.json              the manifest, as canonical JSON; its sha256 is the digest of the version
pipeline.skops           the fitted, calibrated scikit-learn pipeline; the service never opens it
scorer.json              the compiled scorer (fraudops.model.scorer)
scorer.onnx              the model of a scorer of kind `onnx`; a linear scorer has no such file
reference_rows.npy       float64 (rows, features + 1): features, then the pipeline's probability
drift_reference.parquet  features and `fraud_probability` of the rows of the validation part
train_rows.npy           uint64, sorted: a hash of each row that training saw
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from fraudops.canonical import canonical_json, decode_json, sha256_bytes, sha256_file
from fraudops.errors import BundleError
from fraudops.schema import FeatureSchema

FORMAT = 1
MANIFEST = "bundle.json"
REFERENCE_ROWS = "reference_rows.npy"
PIPELINE = "pipeline.skops"
DRIFT_REFERENCE = "drift_reference.parquet"
TRAIN_ROWS = "train_rows.npy"
# For downloads. The sample's bundle has 1.8 MB. One of 20 million training rows has about 160 MB, 8
# bytes for each row. A pod's disk has at least 1 GiB for the bundles that it keeps and a new one.
MAX_BUNDLE_BYTES = 256 << 20
MAX_FILES = 64
# A manifest has about 4 kB.
MAX_MANIFEST_BYTES = 1 << 20
# Names that arrive from outside become paths, so they must match these.
DIGEST = re.compile(r"[0-9a-f]{64}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


class _Format(msgspec.Struct, frozen=True):
    """The one field of a manifest that every release can read."""

    format: int


class Interval(msgspec.Struct, frozen=True):
    """A point estimate and the bounds of its 95 % bootstrap interval."""

    value: float
    lower: float
    upper: float


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The data that a version was trained on.

    `sample` is true for the packaged sample, which is not production data of a bank.
    """

    digest: str
    source: str
    rows: int
    frauds: int
    prevalence: float | None
    sample: bool


class ScorerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The compiled scorer, compared with the pipeline's float64 probabilities.

    The comparison covers the reference rows and the test rows. `decision_mismatches` counts
    the rows that scorer and pipeline place on different sides of the threshold.
    """

    kind: str
    max_abs_difference: float
    decision_mismatches: int = msgspec.field(name="flips")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `bundle.json`.

    Readers skip fields that a later release added. A change that every reader must understand
    raises `format`, so readers check that field first.
    """

    format: int
    model_name: str
    algorithm: str
    schema: dict[str, Any]
    schema_fingerprint: str
    threshold: float
    threshold_policy: dict[str, Any]
    expected_decision_rate: float
    metrics: dict[str, Interval]
    parameters: dict[str, Any]
    dataset: DatasetInfo
    scorer: ScorerInfo
    git_revision: str
    libraries: dict[str, str]
    created_at: str
    files: dict[str, str]

    @property
    def feature_schema(self) -> FeatureSchema:
        return FeatureSchema.from_mapping(self.schema, "bundle.json: schema")


def seal(folder: Path, manifest: Manifest) -> str:
    """Write `bundle.json` with the sha256 of every other file and return the bundle's digest.

    Raises BundleError for a bundle that is too large for a pod.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.name != MANIFEST]
    size = sum(path.stat().st_size for path in paths)
    if size > MAX_BUNDLE_BYTES:
        raise BundleError(
            f"the bundle has {size} bytes, and a pod takes at most {MAX_BUNDLE_BYTES}: "
            "train with fewer rows"
        )
    files = {path.name: sha256_file(path) for path in paths}
    data = canonical_json(msgspec.structs.replace(manifest, files=files))
    (folder / MANIFEST).write_bytes(data)
    return sha256_bytes(data)


def read_manifest(folder: Path, digest: str | None = None) -> Manifest:
    """Read `bundle.json`.

    Raises BundleError when its sha256 is not `digest`, or when it cannot be read.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"the bundle has no readable {MANIFEST} ({error.strerror})") from error
    return parse_manifest(data, digest)


def parse_manifest(data: bytes, digest: str | None) -> Manifest:
    """Return the content of a `bundle.json`. Raises as `read_manifest`."""
    if digest is not None and sha256_bytes(data) != digest:
        raise BundleError(
            f"{MANIFEST} is not the one that was registered: "
            f"its sha256 is {sha256_bytes(data)[:12]}, expected {digest[:12]}"
        )
    try:
        # The format first: a manifest of a later format may not decode as this release's Manifest.
        version = decode_json(data, _Format).format
        if version > FORMAT:
            raise BundleError(
                f"the bundle has format {version}, and this release reads up to {FORMAT}: "
                "upgrade the fraudops that reports this error"
            )
        return decode_json(data, Manifest)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{MANIFEST} cannot be read: {error}") from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that the folder holds exactly the manifest's files, each with its digest.

    Raises BundleError.
    """
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(present - manifest.files.keys()):
        raise BundleError(f"the bundle holds {name}, which its manifest does not name")
    for name, expected in sorted(manifest.files.items()):
        if name not in present:
            raise BundleError(f"the bundle lacks {name}")
        if sha256_file(folder / name) != expected:
            raise BundleError(f"{name} has been altered: its sha256 is not the manifest's")
