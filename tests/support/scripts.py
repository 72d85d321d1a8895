"""The scripts under k8s/, which are no package, as modules."""

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@functools.cache
def script(name: str) -> Any:
    """Return k8s/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"k8s_{name}", ROOT / "k8s" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
