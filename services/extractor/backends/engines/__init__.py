"""Ways to run a PyTorch network faster than eager float32: one file per engine, each a `Backend`."""
