"""The pod's cache of bundles on a disk that fails."""

from pathlib import Path

import pytest

from fraudops.errors import StoreDownError
from fraudops.settings import InferenceSettings
from services.inference.pod.bundle_fetch import fetch_bundle


@pytest.mark.parametrize("folder", ["bundles", "bundles/inside"])
def test_a_disk_that_fails_is_temporary_and_the_message_names_the_folder(
    tmp_path: Path, folder: str
) -> None:
    (tmp_path / "bundles").write_text("a file where the folder should be")
    settings = InferenceSettings.model_construct()
    with pytest.raises(StoreDownError) as down:
        fetch_bundle(settings, tmp_path / folder, "7", "7" * 64)
    # Exit code 75 becomes the answer 503, which the promoter calls again until its deadline.
    assert down.value.exit_code == 75
    assert f"cannot be written to the cache ({tmp_path / folder}: " in str(down.value)
    assert "check the free space of the disk" in str(down.value)
