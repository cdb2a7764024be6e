"""Many objects and one folder: what ``get``, ``put``, ``rm`` and ``cp`` do with a prefix, a URL that ends with ``/``.

The objects move side by side while the prefix is still being listed, over one store: its connections and its window
are shared. Each is whole or not there, an object that fails does not stop the others, and nothing is deleted that was
not asked for. A failure that would meet every object (the server is gone, the keys are refused, the disk is full) ends
the work instead of being met a thousand times.
"""

from artifacts.prefixes.verbs import copy_prefix, get_prefix, put_prefix, remove_prefix

__all__ = ["copy_prefix", "get_prefix", "put_prefix", "remove_prefix"]
