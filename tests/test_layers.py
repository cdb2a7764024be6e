"""Imports point down: creds knows nothing of artifacts, archives know no network, nothing heavy loads early."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each part may import of this project, by prefix; its own files always.
ALLOWED = {
    "creds/errors.py": (),
    "creds/store.py": ("creds.errors",),
    "creds/secret.py": ("creds.errors",),
    "creds/models.py": ("creds.errors", "creds.secret"),
    "creds/retry.py": ("creds.errors", "creds.store"),
    "creds/location.py": ("creds.errors",),
    "creds/endpoint.py": ("creds.errors", "creds.location", "creds.models", "creds.store"),
    "creds/policy.py": ("creds.endpoint", "creds.errors", "creds.location"),
    "creds/proxies.py": ("creds.errors", "creds.location", "creds.store"),
    "creds/web.py": ("creds.errors", "creds.proxies", "creds.retry", "creds.secret", "creds.store"),
    "creds/tokens.py": ("creds.errors", "creds.secret", "creds.store", "creds.web"),
    "creds/keys.py": (
        *("creds.endpoint", "creds.errors", "creds.location", "creds.models", "creds.secret", "creds.store"),
        "creds.tokens",
    ),
    "creds/sts.py": ("creds.errors", "creds.keys", "creds.secret", "creds.store", "creds.tokens", "creds.web"),
    "creds/stores/": (
        "creds.errors",
        "creds.store",
        "creds.retry",
        "creds.keys",
        "creds.models",
        "creds.secret",
        "creds.proxies",
    ),
    "creds/pacing.py": ("creds.store",),
    "creds/resolve.py": ("creds.",),
    "creds/contact.py": ("creds.errors", "creds.location", "creds.proxies", "creds.store", "creds.stores"),
    "creds/doctor.py": ("creds.",),
    "creds/testing.py": ("creds.errors", "creds.store"),
    "artifacts/errors.py": ("creds.errors", "artifacts.events"),
    "artifacts/text.py": (),
    "artifacts/limits.py": ("artifacts.errors",),
    "artifacts/events.py": ("creds.errors", "creds.resolve", "creds.store"),
    "artifacts/archive/": ("artifacts.errors", "artifacts.limits", "artifacts.text", "creds.store"),
    "artifacts/gojson.py": ("artifacts.errors", "creds.secret"),
    "artifacts/request.py": (
        "artifacts.errors",
        "artifacts.gojson",
        "creds.errors",
        "creds.models",
        "creds.secret",
    ),
    "artifacts/state.py": ("artifacts.errors",),
    "artifacts/processors.py": (),
    "artifacts/crew.py": ("artifacts.processors", "creds.errors"),
    "artifacts/scratch.py": ("artifacts.archive",),
    "artifacts/digests.py": ("artifacts.errors", "creds.store"),
    "artifacts/locks.py": ("artifacts.errors", "creds.store"),
    "artifacts/partial.py": ("artifacts.errors", "artifacts.state", "creds.store"),
    "artifacts/cache.py": (
        *("artifacts.archive", "artifacts.digests", "artifacts.errors", "artifacts.limits", "artifacts.locks"),
        *("artifacts.partial", "artifacts.state", "creds.errors", "creds.resolve", "creds.store"),
    ),
    "artifacts/transfer.py": (
        "artifacts.archive",
        "artifacts.digests",
        "artifacts.errors",
        "artifacts.limits",
        "creds.store",
        "creds.errors",
    ),
}
PUBLIC_OF_CREDS = "creds.doctor creds.endpoint creds.tokens creds.errors creds.keys creds.location creds.models creds.policy creds.resolve creds.secret creds.store".split()


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in ("creds", "artifacts")}
    return {name for name in found if name.split(".")[0] in ("creds", "artifacts") and "." in name}


def sources(package: str) -> list[Path]:
    return sorted(
        path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py" or path.parent.name != package
    )


@pytest.mark.parametrize("path", sources("creds"), ids=lambda path: str(path.relative_to(ROOT)))
def test_creds_knows_nothing_of_artifacts(path):
    """No module of creds imports artifacts."""
    assert {name for name in imports(path) if name.startswith("artifacts")} == set()


@pytest.mark.parametrize("path", sources("artifacts"), ids=lambda path: str(path.relative_to(ROOT)))
def test_artifacts_uses_public_names_of_creds(path):
    """Artifacts imports the public modules of creds, never an engine."""
    used = {name for name in imports(path) if name.startswith("creds.")}
    assert {name for name in used if not name.startswith(tuple(PUBLIC_OF_CREDS))} == set()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (path, allowed)
        for prefix, allowed in ALLOWED.items()
        for path in ([ROOT / prefix] if prefix.endswith(".py") else sources(prefix))
    ],
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else "",
)
def test_imports_point_down(path, allowed):
    """Each module imports only what is below it."""
    own = ".".join(path.relative_to(ROOT).parent.parts) if path.parent.name not in ("creds", "artifacts") else "-"
    assert {name for name in imports(path) if not name.startswith((*allowed, own))} == set()


def loaded(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after ``code``."""
    script = f"import sys\n{code}\nprint(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"boto3", "botocore", "pydantic", "zstandard", "isal", "rich", "moto", "jwt"}


def test_help_loads_nothing_heavy():
    """`artifacts --help` waits for neither pydantic nor an SDK."""
    code = "from artifacts.cli.main import cli\ncli(['--help'], standalone_mode=False)"
    assert loaded(code) & HEAVY == set()


def test_import_loads_nothing_heavy():
    """`import artifacts` and `import creds` load what is asked of them, when it is asked."""
    assert loaded("import artifacts, creds") & HEAVY == set()


def test_reading_a_request_loads_no_engine():
    """Reading a document needs pydantic, and neither SDK."""
    used = loaded("import artifacts\nartifacts.loads(b'{}')") & HEAVY
    assert used == {"pydantic"}


def test_planning_loads_no_engine():
    """Deciding about a request's artifacts makes no connection, so it loads no engine."""
    code = (
        "from artifacts.request import loads\nfrom artifacts.staging import plan\n"
        'plan(loads(b\'{"experiment":{"artifacts":{"a":{"qualified":"s3://bucket/key"}}}}\'))'
    )
    assert loaded(code) & {"boto3", "botocore"} == set()


def test_an_object_without_a_credential_needs_no_pydantic():
    """Reaching one object as nobody in particular waits for neither pydantic nor boto3."""
    code = "from artifacts.objects import Access\nAccess().resolve('s3+http://127.0.0.1:1/bucket/key').open().close()"
    assert loaded(code) & {"boto3", "botocore", "pydantic"} == set()


def test_a_get_waits_for_nothing_it_does_not_use(tmp_path):
    """Without a configuration file, a terminal, a log or a token, none of what reads, draws, writes or checks these."""
    (tmp_path / "from").write_text("x")
    code = (
        "import os\nfrom artifacts.cli.main import cli\n"
        "os.environ.pop('ARTIFACTS_CONFIG', None)\nos.environ['XDG_CONFIG_HOME'] = '/nonexistent'\n"
        f"try: cli(['get', '-q', 'file://{tmp_path}/from', '{tmp_path}/to'], standalone_mode=False)\n"
        "except SystemExit as ended: assert not ended.code, ended.code"
    )
    unused = {"asyncio", "http", "jwt", "logging", "random", "secrets", "tempfile", "tomllib", "traceback", "xml"}
    assert loaded(code) & (HEAVY | unused) - {"isal", "zstandard"} == set()
    assert (tmp_path / "to").read_text() == "x"


def test_reading_a_request_builds_no_validators():
    """Pydantic's validators of the models, and whatever it looks for to build them, are no part of reading."""
    code = (
        'import artifacts, sys\nartifacts.loads(b\'{"experiment":{"artifacts":{"a":{"qualified":"s3://b/k"}}}}\')\n'
        "from artifacts.request import Artifact\nfrom creds.models import Credentials\n"
        "assert not Artifact.__pydantic_complete__\nassert not Credentials.__pydantic_complete__\n"
        "assert 'pydantic.plugin._loader' not in sys.modules"
    )
    assert "pydantic" in loaded(code)
