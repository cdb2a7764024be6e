"""Stage a request from Python: usage: stage.py REQUEST DIR ENDPOINT..."""

import sys

from artifacts import Published, Request, StagingDir, ToolkitError
from creds import Policy

name, folder, *endpoints = sys.argv[1:]
request = Request.load(name)
staging = StagingDir(
    folder,
    policy=Policy.for_requests(endpoints),
    on_event=lambda event: print(event.receipt.to_json()) if isinstance(event, Published) else None,
)
try:
    staging.stage(request)
except ToolkitError as error:
    sys.exit(f"{error} (hint: {error.hint})")
