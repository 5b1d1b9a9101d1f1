"""The pages that people look at: one shell, scripts and styles, and a way to the extractor's API."""
