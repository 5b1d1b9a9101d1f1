"""Bodies of uploads as files: names, archives and forms, within limits."""
