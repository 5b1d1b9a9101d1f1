"""The profile `tf`: the same job with a TensorFlow model, through the gRPC of TF Serving."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any


def test_a_tensorflow_model_is_imported_served_and_used(stack: Any, data: Path) -> None:
    subprocess.run([sys.executable, "-m", "extractor", "export-lite0", str(data / "saved")], check=True)
    for path in [data / "saved", *(data / "saved").rglob("*")]:
        path.chmod(0o755)
    stack.profiles.append("tf")
    stack.files.append(Path(__file__).parent / "tf-serving.yml")
    stack.compose("build", "extractor-tfserving")
    stack.compose("build", "tf-serving")
    # The profile first, its models later: TF Serving starts again until there is one, and its volume stays ours.
    stack.compose("up", "-d", "tf-serving", "extractor-tfserving", "extractor-tfserving-host")
    stack.compose("exec", "-T", "extractor-torch", "sh", "-c", "touch /models/written && rm /models/written")
    stack.compose("run", "--rm", "-T", "--no-deps", "extractor-tfserving", "import-tf", "lite0", "/data/saved")

    extractor, clusterer = stack.http()
    models = {model["name"]: model for model in stack.get(extractor, "/models")["models"]}
    assert (models["lite0"]["backend"], models["lite0"]["readiness"]) == ("tfserving", "ready")
    job_id = stack.post(extractor, "/extract", {"images": {"path": "many"}, "model": "lite0", "batch_size": 16})
    stack.wait(lambda: stack.embedded(extractor, job_id) >= 32, 600, "the job's first images")
    served = stack.container("tf-serving")
    stack.docker("kill", served)
    stack.docker("start", served)
    job = stack.ended(extractor, job_id)
    assert (job["state"], job["kind"]) == ("succeeded", "extract:tfserving"), job
    assert (job["result"]["rows"], job["result"]["failed"]) == (600, 0)

    image = (data / "few/red/000.png").read_bytes()
    stack.wait(lambda: extractor.post("/predictions/lite0", content=image).status_code == 200, 300, "a new image")
    assert len(extractor.post("/predictions/lite0", content=image).json()) == 1280

    body = {"embeddings": job["result"]["embeddings"], "over": 1, "seeds": [0]}
    job = stack.ended(clusterer, stack.post(clusterer, "/cluster", body))
    assert job["state"] == "succeeded", job
    assert job["result"]["metrics"]["accuracy"]["hungarian"]["scored"] > 0.9

    look = "import importlib.util as u; print([n for n in ('torch', 'tensorflow', 'faiss') if u.find_spec(n)])"
    assert stack.compose("exec", "-T", "extractor-tfserving", "python", "-c", look).strip() == "['tensorflow']"
