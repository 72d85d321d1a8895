import pytest

from tests.chart.rendering import VARIANTS, Manifest, render


@pytest.fixture(params=VARIANTS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """Every object of each way to install."""
    return render(VARIANTS[request.param])
