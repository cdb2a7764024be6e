"""This project against its peers, side by side in one run: ``scripts/bench`` is the way in."""
