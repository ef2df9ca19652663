"""``python -m tesserec``, the same as the ``tesserec`` command."""

from tesserec.cli import main

main()
