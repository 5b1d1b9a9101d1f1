"""`python -m shoal.cli`: the same as `shoal`."""

from shoal.cli import main

main()
