"What a fresh interpreter imports."

import subprocess
import sys


def test_the_registry_imports_no_torch():
    "The command line reads the names of methods for its help, which has to be quick."
    code = "import sys, mmccd.registry, mmccd.benchmark; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
