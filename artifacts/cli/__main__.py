"""``python -m artifacts.cli``: the command, where no script is installed."""

from artifacts.cli import main

main()
