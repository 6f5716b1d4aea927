"""The scripts of experiments/ and benchmarks/ are imported as they lie, like those of tools/."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("experiments", "benchmarks"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))
