"""Stands in for torchvision, which two platforms import for data sets that are not used here."""

import sys
from unittest.mock import MagicMock

for part in ("", ".datasets", ".transforms", ".models", ".utils", ".datasets.utils"):
    sys.modules[f"torchvision{part}"] = MagicMock()
