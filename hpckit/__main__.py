"""`python -m hpckit` is `hpckit`."""

from hpckit.cli import main

main()
