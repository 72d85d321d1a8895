from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fraudops.canonical import sha256_bytes
from fraudops.errors import BundleError
from fraudops.model.manifest import FORMAT, MANIFEST, REFERENCE_ROWS, Manifest, read_manifest, seal
from fraudops.model.scorer import LinearParameters, LinearScorer
from fraudops.model.verification import check_scorer, read_reference_rows, verify_bundle
from tests.support.bundles import make_manifest, write_linear_bundle


def reseal(folder: Path, change: Callable[[Manifest], Manifest]) -> str:
    return seal(folder, change(read_manifest(folder)))


def test_a_sealed_bundle_verifies_under_its_digest(tmp_path: Path) -> None:
    digest = write_linear_bundle(tmp_path)
    manifest = verify_bundle(tmp_path, digest)
    assert manifest.feature_schema.fingerprint == manifest.schema_fingerprint
    assert set(manifest.files) == {"scorer.json", REFERENCE_ROWS}


def test_the_same_content_has_the_same_digest(tmp_path: Path) -> None:
    assert write_linear_bundle(tmp_path / "a", seed=3) == write_linear_bundle(
        tmp_path / "b", seed=3
    )
    assert write_linear_bundle(tmp_path / "c", seed=4) != write_linear_bundle(
        tmp_path / "a", seed=3
    )


def test_another_digest_than_the_registered_one_is_refused(tmp_path: Path) -> None:
    write_linear_bundle(tmp_path)
    with pytest.raises(BundleError, match="not the one that was registered"):
        verify_bundle(tmp_path, "f" * 64)


def test_an_altered_file_is_refused_by_name(tmp_path: Path) -> None:
    digest = write_linear_bundle(tmp_path)
    (tmp_path / "scorer.json").write_text((tmp_path / "scorer.json").read_text() + " ")
    with pytest.raises(BundleError, match=r"scorer\.json has been altered"):
        verify_bundle(tmp_path, digest)


def test_a_missing_and_an_additional_file_are_refused_by_name(tmp_path: Path) -> None:
    digest = write_linear_bundle(tmp_path)
    (tmp_path / "stowaway.pkl").write_bytes(b"")
    with pytest.raises(BundleError, match=r"holds stowaway\.pkl"):
        verify_bundle(tmp_path, digest)
    (tmp_path / "stowaway.pkl").unlink()
    (tmp_path / REFERENCE_ROWS).unlink()
    with pytest.raises(BundleError, match="lacks reference_rows"):
        verify_bundle(tmp_path, digest)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no readable bundle\.json"):
        verify_bundle(tmp_path, "0" * 64)


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("field", "value"),
    [("model_name", b'"\xff"'), ("parameters", nested(9000)), ("a_later_field", nested(9000))],
    ids=["not UTF-8", "too deep", "a later field that is too deep"],
)
def test_a_damaged_manifest_is_refused(field: str, value: bytes, tmp_path: Path) -> None:
    write_linear_bundle(tmp_path)
    rewrite(tmp_path, **{field: "DAMAGE"})
    path = tmp_path / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"DAMAGE"', value))
    with pytest.raises(BundleError):
        read_manifest(tmp_path)


def rewrite(folder: Path, **fields: Any) -> str:
    """Change fields of the manifest and return its digest."""
    raw = msgspec.json.decode((folder / MANIFEST).read_bytes())
    data = msgspec.json.encode(raw | fields)
    (folder / MANIFEST).write_bytes(data)
    return sha256_bytes(data)


def test_a_bundle_with_fields_of_a_later_release_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    write_linear_bundle(tmp_path)
    digest = rewrite(tmp_path, later={"field": 1})
    before = (tmp_path / MANIFEST).read_bytes()
    verify_bundle(tmp_path, digest)
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_a_bundle_of_a_newer_format_is_refused_for_that_and_not_for_its_fields(
    tmp_path: Path,
) -> None:
    write_linear_bundle(tmp_path)
    digest = rewrite(tmp_path, format=FORMAT + 1, threshold="by segment", later=1)
    with pytest.raises(BundleError, match=f"format {FORMAT + 1}.*reads up to {FORMAT}: upgrade"):
        read_manifest(tmp_path, digest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"schema_fingerprint": "0" * 64}, "fingerprint"),
        ({"schema": {"name": "x"}}, "missing"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.5}, "threshold"),
    ],
)
def test_a_manifest_that_this_release_cannot_serve_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    write_linear_bundle(tmp_path)
    digest = reseal(tmp_path, lambda manifest: msgspec.structs.replace(manifest, **change))
    with pytest.raises(BundleError, match=message):
        verify_bundle(tmp_path, digest)


def test_a_scorer_that_differs_from_the_pipeline_is_refused(tmp_path: Path) -> None:
    write_linear_bundle(tmp_path)
    rows = np.load(tmp_path / REFERENCE_ROWS)
    rows[11, -1] += 2e-6
    np.save(tmp_path / REFERENCE_ROWS, rows)
    digest = reseal(tmp_path, lambda manifest: manifest)
    with pytest.raises(BundleError, match="differs from the pipeline by up to 2e-06"):
        verify_bundle(tmp_path, digest)


def test_a_scorer_that_answers_nan_is_refused(tmp_path: Path) -> None:
    write_linear_bundle(tmp_path)
    features = len(make_manifest().feature_schema.features)
    (tmp_path / "scorer.json").write_bytes(
        msgspec.json.encode(
            {"kind": "linear", "coefficients": [1e308] * features, "intercept": -1e308}
        )
    )
    rows = np.load(tmp_path / REFERENCE_ROWS)
    rows[0, :2] = 1e10, -1e10
    np.save(tmp_path / REFERENCE_ROWS, rows)
    digest = reseal(tmp_path, lambda manifest: manifest)
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(BundleError, match="differs from the pipeline by up to nan"),
    ):
        verify_bundle(tmp_path, digest)


def test_a_scorer_whose_single_rows_differ_from_its_batches_is_refused(tmp_path: Path) -> None:
    class Divided(LinearScorer):
        def score(self, row: Sequence[float]) -> float:
            return super().score(row) + 1e-5

    digest = write_linear_bundle(tmp_path)
    manifest = verify_bundle(tmp_path, digest)
    parameters = msgspec.json.decode((tmp_path / "scorer.json").read_bytes(), type=LinearParameters)
    check_scorer(LinearScorer(parameters), read_reference_rows(tmp_path, manifest), manifest)
    with pytest.raises(BundleError, match="differs from the pipeline"):
        check_scorer(Divided(parameters), read_reference_rows(tmp_path, manifest), manifest)


def test_a_scorer_for_other_features_is_refused(tmp_path: Path) -> None:
    write_linear_bundle(tmp_path)
    (tmp_path / "scorer.json").write_bytes(
        msgspec.json.encode({"kind": "linear", "coefficients": [1.0], "intercept": 0.0})
    )
    digest = reseal(tmp_path, lambda manifest: manifest)
    with pytest.raises(BundleError, match=r"linear, 1 features\) is not the manifest's"):
        verify_bundle(tmp_path, digest)


@pytest.mark.parametrize(
    "rows",
    [np.zeros((0, 30)), np.zeros((3, 29)), np.zeros((3, 30), np.float32), np.full((3, 30), np.nan)],
)
def test_reference_rows_of_another_shape_type_or_not_finite_are_refused(
    tmp_path: Path, rows: np.ndarray
) -> None:
    write_linear_bundle(tmp_path)
    np.save(tmp_path / REFERENCE_ROWS, rows)
    digest = reseal(tmp_path, lambda manifest: manifest)
    with pytest.raises(BundleError, match=REFERENCE_ROWS):
        verify_bundle(tmp_path, digest)


def test_reference_rows_that_hold_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    write_linear_bundle(tmp_path)
    np.save(tmp_path / REFERENCE_ROWS, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    digest = reseal(tmp_path, lambda manifest: manifest)
    with pytest.raises(BundleError, match="cannot be read"):
        verify_bundle(tmp_path, digest)
