"""How many files a request passes: the files of the project whose functions run from HTTP to the committed bytes.

Starts `shoal up` with a profiler in every process, embeds two folders of images with one `POST /extract` and clusters
them with one `POST /cluster`. A function that runs while a module is imported does not count.

    python benchmarks/hops.py [--files] [--json]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from _common import finish, parser
from PIL import Image
from shoal import Client
from shoal.embedded import Stack

PROFILER = """
import os, sys, threading

out, seen = os.environ["SHOAL_HOPS"], set()
command = " ".join(sys.orig_argv[1:4])
service = next((name for name in ("extractor", "clusterer") if name in command), "other")

def project_file(code):
    path = code.co_filename
    if "site-packages" in path:
        return None
    for root in ("/shared/shoal/", "/services/extractor/", "/services/clusterer/"):
        before, found, after = path.partition(root)
        if found:
            return root.split("/", 2)[2] + after
    return None

def importing(frame):
    while frame is not None:
        module = frame.f_code.co_name == "<module>" and frame.f_globals["__name__"] != "__main__"
        if module and project_file(frame.f_code):
            return True
        frame = frame.f_back
    return False

def profile(frame, event, argument):
    code = frame.f_code
    if event != "call" or code in seen:
        return
    path = project_file(code)
    if path is None or code.co_name.startswith("<") or not code.co_flags & 1:  # 1: a function, not the body of a class
        seen.add(code)
    elif os.path.exists(out + "/on") and not importing(frame):
        seen.add(code)
        with open(f"{out}/{os.getpid()}", "a") as file:
            print(service, path, file=file)

threading.setprofile(profile)
sys.setprofile(profile)
"""


def main() -> int:
    """Run the two requests and print how many files each of them passes."""
    arguments = parser(__doc__)
    arguments.add_argument("--files", action="store_true", help="print the files")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        passed = files_passed(Path(folder))
    for route, files in passed.items():
        print(f"{route}: {len(files)} files")
        if options.files:
            print("\n".join(f"  {path}" for path in files))
    finish({route: len(files) for route, files in passed.items()}, as_json=options.json)
    return 0


def files_passed(root: Path) -> dict[str, list[str]]:
    """The files that run for each of the two requests; a worker and its job start before the request comes."""
    notes, profiler = root / "notes", root / "profiler"
    for folder in (notes, profiler):
        folder.mkdir()
    (profiler / "sitecustomize.py").write_text(PROFILER)
    random = np.random.default_rng(0)
    for index in range(24):
        path = root / "data/images" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    stack = Stack(
        root / "data",
        root / "models",
        root / "store",
        extractor_port=0,
        clusterer_port=0,
        single_user=True,
        extra_env={"PYTHONPATH": str(profiler), "SHOAL_HOPS": str(notes)},
    )
    stack.start()
    try:
        urls = (f"http://127.0.0.1:{port}" for port in (stack.extractor_port, stack.clusterer_port))
        client = Client(*urls)
        (notes / "on").touch()
        job = client.wait(client.extract("images", model="tf_efficientnet_lite0"))
        found = {"POST /extract": noted(notes, "extractor")}
        client.wait(client.cluster((job.result or {})["embeddings"], clusters=3, pca={"components": 4}))
        return found | {"POST /cluster": noted(notes, "clusterer")}
    finally:
        stack.stop()


def noted(notes: Path, service: str) -> list[str]:
    """The files that processes of ``service`` noted, sorted."""
    lines = (line.split() for note in notes.glob("[0-9]*") for line in note.read_text().splitlines())
    return sorted({path for noting, path in lines if noting == service})


if __name__ == "__main__":
    raise SystemExit(main())
