"""How APIs and model hosts talk to each other: HTTP over a unix socket. No numerical library.

``POST /embed`` has the images' bytes, or texts in UTF-8, one after another as its body, and these headers:

| header | value |
| --- | --- |
| `X-Shoal-Model` | the model as in `POST /extract`, as JSON: a name in quotes, or an object |
| `X-Shoal-Lengths` | bytes of each image or text, separated by commas |
| `X-Shoal-Inputs` | `images`, which is the default, or `texts` |
| `X-Shoal-Timeout-Ms` | milliseconds after which the answer is not needed any more |

The answer is an array (n, dim) float32 in the format of ``.npy``, with the headers `X-Shoal-Model-Digest` and
`X-Shoal-Transform`, or a problem (RFC 9457).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from shoal import inline

MODEL: Final = "X-Shoal-Model"
LENGTHS: Final = "X-Shoal-Lengths"
INPUTS: Final = "X-Shoal-Inputs"
TIMEOUT_MS: Final = "X-Shoal-Timeout-Ms"
DIGEST: Final = inline.MODEL_DIGEST
TRANSFORM: Final = inline.TRANSFORM
NPY: Final = inline.NPY

Inputs = Literal["images", "texts"]

MAX_IMAGES: Final = inline.MAX_IMAGES
MAX_BYTES: Final = inline.MAX_IMAGE_BYTES
DEFAULT_TIMEOUT_S: Final = 60.0
MAX_TIMEOUT_S: Final = 600.0


def socket_path(folder: Path, backend: str) -> Path:
    """Where the host of ``backend`` listens."""
    return folder / f"{backend}.sock"
