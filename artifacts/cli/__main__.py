"""``python -m artifacts.cli``: the command, where no script is installed."""

from artifacts.cli.main import main

main()
