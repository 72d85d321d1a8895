"""Scheduling: which files share a test process, and which files start first."""

from pathlib import Path

from xdist.scheduler import LoadFileScheduling

# These files share one whole product, so that one test process runs them all. A file that is
# missing from the list works too, but starts a second product.
ON_THE_PLATFORM = (
    "test_promotion.py",
    "test_readme.py",
    "test_predict.py",
    "test_simulate.py",
    "test_score_served.py",
    "test_smoke_test.py",
)
# These share one service, which hostile clients call.
ON_THE_WIRE = (
    "test_smuggling.py",
    "test_slow.py",
    "test_floods.py",
    "test_ends.py",
    "test_generated.py",
)
# These files import MLflow's client, which costs 2.6 s in each process.
WITH_MLFLOW = (
    "test_pipeline.py",
    "test_train.py",
    "test_install_databases.py",
    "test_mlflow_rollback.py",
)
GROUPS = {"the platform": ON_THE_PLATFORM, "MLflow": WITH_MLFLOW, "the wire": ON_THE_WIRE}
# The longest files start first, so that all test processes end at about the same time.
LONGEST = (
    "test_demo.py",
    *ON_THE_PLATFORM,
    *ON_THE_WIRE,
    "test_supervisor.py",
    "test_faults.py",
    "test_inference_start.py",
    "test_inference_pod_coordinator.py",
    "test_promotion_simulation.py",
    *WITH_MLFLOW,
    "test_second_schema.py",
    "test_shipper.py",
    "test_drift.py",
    "test_spool_volume.py",
    "test_durability.py",
    "test_inference_process.py",
)


class PlatformScheduling(LoadFileScheduling):
    """Keep the tests of a file together, and the files of a group."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        name = Path(file).name
        return next((group for group, files in GROUPS.items() if name in files), file)
