"""The benchmarks' scripts as modules."""

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"


def loaded(name):
    """A benchmark as a module; what it imports from its folder is found while it is loaded."""
    before = list(sys.path)
    sys.path[:0] = [str(FOLDER), str(FOLDER / "peers")]
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module
