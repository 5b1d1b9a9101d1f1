"""Random faults on a whole installation under a mixed load, and what must hold afterwards.

    python -m tests.faults.chaos [--seconds 60] [--seed N] [--folder DIR]

The seed decides which requests and which faults come in which order and after which pauses.
"""
