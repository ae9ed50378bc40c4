"""The scripts of benchmarks and tools as modules."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"


def loaded(name, folder="benchmarks"):
    """A script as a module; what it imports from its folder is found while it is loaded."""
    before, where = list(sys.path), ROOT / folder
    sys.path[:0] = [str(where), str(where / "peers")]
    spec = importlib.util.spec_from_file_location(name, where / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module
