"""The benchmark of a GPU's paths runs where there is no GPU, and says why it leaves a part out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).parents[4] / "benchmarks" / "gpu.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, BENCHMARK, *options], capture_output=True, text=True, check=False)


def test_a_dry_run_measures_what_a_processor_can_and_names_the_rest() -> None:
    done = run("--dry-run", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    parts = result["parts"]
    assert (result["device"], result["failed"]) == ("cpu", [])
    assert parts["engines.tf_efficientnet_lite0"]["ok"] is True
    assert parts["decode.shoal"]["images_per_s"] > 0
    assert parts["decode.torchvision"]["largest_difference"] == 0
    assert parts["kmeans.faiss"]["mean_squared"] > 0
    assert {name for name, part in parts.items() if "left_out" in part} == {"kmeans.flash", "decode.nvimgcodec"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 1
    assert "--dry-run" in done.stderr
