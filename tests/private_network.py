"""A machine with a private address, for one test: run by ``unshare -rn``, in a network of its own that ends with it.

It puts 10.0.0.5 on its loopback device, starts SeaweedFS with an STS behind two ports of that address, and runs shell
commands, given as JSON on standard input with a folder to work in. What they said goes to standard output as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import servers
import tlsfront

from creds.testing import OidcIssuer

HOST = "10.0.0.5"


def main() -> None:
    asked = json.load(sys.stdin)
    folder = Path(asked["folder"])
    for words in (["link", "set", "lo", "up"], ["address", "add", f"{HOST}/32", "dev", "lo"]):
        subprocess.run(["ip", *words], check=True)
    authority = tlsfront.Authority(folder, names=(HOST,))
    (folder / "our-ca.pem").write_bytes(authority.pem)
    with (
        OidcIssuer() as issuer,
        servers.seaweedfs(servers.federation(issuer.url, 3600)) as server,
        tlsfront.plain_front(server.address, (HOST, 9000)),
        tlsfront.tls_front(server.address, authority, address=(HOST, 9443)),
    ):
        (folder / "token").write_text(issuer.mint())
        content = commands.tar({"weights": b"w" * 1000}, "w:gz")
        server.client().put_object(Bucket=servers.SHARED_BUCKET, Key="model.tar.gz", Body=content)
        artifact = {
            "qualified": f"s3://{HOST}:9443/data/model.tar.gz",
            "unpack": True,
            "credentials": commands.credentials(servers.READER),
        }
        request = {"experiment": {"key": "e", "artifacts": {"model": artifact}}}
        (folder / "request.json").write_text(json.dumps(request))
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "AWS_ACCESS_KEY_ID": servers.READER.access_key,
            "AWS_SECRET_ACCESS_KEY": servers.READER.secret_key,
        }
        results = []
        for command in asked["commands"]:
            done = subprocess.run(
                ["sh", "-ec", command], cwd=folder, env=env, capture_output=True, text=True, timeout=60
            )
            results.append({"code": done.returncode, "out": done.stdout, "err": done.stderr})
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
