"""Every way of committing something, struck at each of its steps: the process dies there, or the disk fails."""
