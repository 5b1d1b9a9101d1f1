"""What requests that carry images or vectors share: the services, the model hosts and the clients agree on it."""

from __future__ import annotations

from typing import Final

MAX_IMAGES: Final = 64
"""Most images of one request."""
MAX_IMAGE_BYTES: Final = 32 * 2**20
"""Most bytes of these images together."""
MAX_URI: Final = 4 * MAX_IMAGE_BYTES // 3 + 200
"""Most characters of an image as a data URI."""
MAX_TEXT: Final = 10_000
"""Most characters of a text."""
MODEL_DIGEST: Final = "X-Shoal-Model-Digest"
"""Header of an answer: `ModelRecord.digest` of the model that ran."""
TRANSFORM: Final = "X-Shoal-Transform"
"""Header of an answer: how images became the input of that model, the `transform` of a plan as JSON."""
NPY: Final = "application/x-npy"
ARROW: Final = "application/vnd.apache.arrow.stream"
