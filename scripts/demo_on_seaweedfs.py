"""Run `artifacts demo` against a SeaweedFS that is started for it; arguments go to the command."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import servers


def main() -> int:
    with servers.seaweedfs() as server, tempfile.NamedTemporaryFile("w", suffix=".json") as credentials:
        keys = {"access_key": server.admin.access_key, "secret_access_key": server.admin.secret_key}
        json.dump({"aws": keys}, credentials)
        credentials.flush()
        command = ["demo", "--endpoint-url", server.endpoint_url, "--credentials", credentials.name, *sys.argv[1:]]
        return subprocess.run([sys.executable, "-m", "artifacts.cli", *command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
