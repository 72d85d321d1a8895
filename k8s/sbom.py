"""`python k8s/sbom.py [FOLDER]`: write a list of the Python packages of each image, as CycloneDX.

A list has what an image's lock file pins, with the hashes. Two runs write the same bytes. The
packages of the base image are not in it: the release workflow lists those of the pushed image.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fraudops import __version__  # noqa: E402

LOCKS: Mapping[str, str] = {
    "fraudops-serving": "requirements-serve.lock",
    "fraudops-mlflow": "requirements-mlflow.lock",
    "fraudops-jobs": "requirements-jobs.lock",
}


def listed(lock: str) -> Any:
    """Return cyclonedx-py's list of what a lock file pins."""
    program = str(Path(sys.executable).with_name("cyclonedx-py"))
    # `sbom` validates what it has changed.
    options = (
        "--output-reproducible",
        "--no-validate",
        "--pyproject",
        str(ROOT / "pyproject.toml"),
    )
    command = [program, "requirements", str(ROOT / lock), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"cyclonedx-py failed for {lock}:\n{done.stderr}")
    return json.loads(done.stdout)


def sbom(image: str) -> str:
    """Return the list of an image as JSON, with the image as what it describes."""
    found = listed(LOCKS[image])
    # The tool knows the project, not the image, and copies each lock line into a description.
    main = found["metadata"]["component"]
    main |= {"name": image, "version": __version__, "type": "container"}
    for component in found["components"]:
        del component["description"]
    known = [component["bom-ref"] for component in found["components"]]
    graph = [entry for entry in found["dependencies"] if entry["ref"] != main["bom-ref"]]
    found["dependencies"] = [{"ref": main["bom-ref"], "dependsOn": sorted(known)}, *graph]
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"the list of {image} breaks the schema of CycloneDX 1.6: {fault}")
    return text


def path_of(folder: Path, image: str) -> Path:
    return folder / f"{image}.cdx.json"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")
    folder.mkdir(parents=True, exist_ok=True)
    for image in LOCKS:
        path_of(folder, image).write_text(sbom(image))
        sys.stderr.write(f"{path_of(folder, image)} written\n")


if __name__ == "__main__":
    main()
