"""What keeps the promises of docs/RELIABILITY.md, taken out of the code piece by piece: the tests must notice.

``python -m tests.faults.protections`` removes each protection in a copy of the code, runs the tests whose docstrings
say that they fail without it, and prints which of them did.
"""
