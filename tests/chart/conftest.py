"""The rendered chart, in every variant, for the tests of this folder."""

import pytest

from tests.chart.rendering import VARIANTS, Manifest, render


@pytest.fixture(params=VARIANTS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """Return every object of one variant of the installation."""
    return render(VARIANTS[request.param])
