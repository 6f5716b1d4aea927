"Weights published by one process, and used by another, as on two computers."

import os
import subprocess
import sys

from toy_cases import write_case
from toy_hub import ToyHub

from mmccd.weights.hub import WEIGHTS


def test_published_weights_detect(tmp_path):
    case = write_case(tmp_path, "a", ["t1"])
    with ToyHub() as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        settings |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "me"}

        def python(*words):
            done = subprocess.run([sys.executable, *words], env=os.environ | settings, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout

        tool = WEIGHTS.parents[1] / "tools" / "publish_weights.py"
        address = python(tool, tmp_path / "out", "threshold", "--push", "me")
        assert address.startswith(f"{hub.url}/me/mmccd-threshold/commit/")
        python("-m", "mmccd", "detect", case, "--weights", "hf:me/mmccd-threshold:t1", "--out", tmp_path / "results")
        fetched = {path.rpartition("/")[2] for _, path in hub.calls if "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors"}
    assert list((tmp_path / "results").rglob("*_anomaly.nii.gz"))
