"""The extractor's jobs."""

EXTRACT = "extract:"
"""Before the backend's name in the kind of a job of ``POST /extract``."""
OBSOLETE = "embed:"
"""The same for jobs of ``POST /v1/embeddings`` up to version 0.1.0, which no worker runs any more."""
IMPORT = "import"
"""Kind of a job of ``POST /embeddings``."""
