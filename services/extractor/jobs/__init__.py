"""The extractor's jobs."""

EXTRACT = "extract:"
"""Before the backend's name in the kind of a job of ``POST /extract``."""
EMBED = "embed:"
"""The same for ``POST /v1/embeddings``, whose client waits for the answer."""
