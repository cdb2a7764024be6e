"""The configuration file as an operator meets it: written, checked, shown, obeyed, and refused with the key's path."""

from __future__ import annotations

import http.server
import json
import re
import stat
import threading
import tomllib
from pathlib import Path

import ftpservers
import pytest
import servers
from commands import Bench, credentials, fill, run, tar
from tlsfront import Authority, forward_proxy, tls_front

from artifacts.cli import config as configuration
from artifacts.cli import schema
from artifacts.cli.config import ConfigError
from creds.endpoint import AWS
from tests.test_layers import loaded
from tests.test_location import tables

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "configuration.md").read_text()


def load(folder: Path, text: str):
    path = folder / "artifacts.toml"
    path.write_text(f"version = 1\n{text}")
    return configuration.load(path)


@pytest.fixture
def bench(seaweed, bucket, tmp_path) -> Bench:
    return Bench(seaweed, bucket, tmp_path)


# The schema, the page and the written file say the same.


@pytest.mark.parametrize("table", schema.TABLES)
def test_the_page_has_every_key(table):
    """Each table of the page lists the schema's keys in its order, with its meaning and an example that is valid."""
    rows = tables("configuration.md")[f"[{table}]" if table not in schema.NAMED else f'[{table}."..."]']
    fields = schema.TABLES[table].model_fields
    assert [row[0].strip("`") for row in rows] == list(fields)
    for key, meaning, example in rows:
        assert meaning.replace("`", "") == fields[key.strip("`")].description
        value = tomllib.loads(f"x = {example.strip('`')}")["x"]
        assert value == fields[key.strip("`")].examples[0]


KEYS = b'{"aws": {"access_key": "A", "secret_access_key": "S"}}'


def test_the_pages_examples_load(tmp_path, monkeypatch):
    """Each TOML block of the page is a file that loads without a warning, where the files it names exist."""
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 3
    authority = Authority(tmp_path)
    for name in re.findall(r'"([\w-]+\.(?:pem|json))"', PAGE):
        (tmp_path / name).write_bytes(authority.pem if name.endswith(".pem") else KEYS)
    fill(tmp_path, {"known_hosts": "", "id_ed25519": "", "client.key": ""})
    for block in blocks:
        path = tmp_path / "artifacts.toml"
        path.write_text(block)
        assert configuration.load(path).warnings == ()


def test_the_written_file_is_valid_with_every_key(tmp_path):
    """Each commented line of `config init`'s file, uncommented alone with its table, is what the schema reads."""
    lines = schema.template().splitlines()
    assert tomllib.loads(schema.template()) == {"version": 1}
    header, seen = "", 0
    for line in lines:
        if line.startswith("#["):
            header = line[1:]
        elif line.startswith("#") and " = " in line and not line.startswith("# "):
            document, problems, warnings = schema.read(tomllib.loads(f"version = 1\n{header}\n{line[1:]}\n"))
            assert (document.model_dump(exclude_unset=True).keys() - {"version"}, problems, warnings) == (
                {header.strip("[]").partition(".")[0]},
                [],
                [],
            ), line
            seen += 1
    assert seen == sum(len(model.model_fields) for model in schema.TABLES.values())


# What is wrong is told.


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('[endpoint."a:1"]\nurl = "http://b:1"', ['endpoint."a:1".url names another host: b:1']),
        ('[endpoint."a:1"]\nurl = "a:1"', ["endpoint.\"a:1\".url: the endpoint 'a:1' is no http:// or https:// URL"]),
        ('[endpoint."a/b"]', ['endpoint."a/b": the endpoint']),
        ('[endpoint."a:1"]\nregion = 5\nambient = "yes"\nbuckets = "b"', ['endpoint."a:1".region: expected a valid string', 'endpoint."a:1".buckets: expected a valid list', 'endpoint."a:1".ambient: expected a valid boolean']),
        ('[endpoint."a:1"]\nregion = ""', ['endpoint."a:1".region: is empty']),
        ('[endpoint."a:1"]\naddressing = "sub"', ["endpoint.\"a:1\".addressing: expected 'auto', 'path' or 'virtual'"]),
        ('[endpoint."a:1"]\nca = "none.pem"', ['endpoint."a:1".ca: {folder}/none.pem is no file']),
        ('[endpoint."a:1"]\nca = "artifacts.toml"', ['endpoint."a:1".ca: {folder}/artifacts.toml holds no certificate in PEM form']),
        ('[endpoint."a:1"]\nclient_key = "artifacts.toml"', ['endpoint."a:1".client_key: goes with client_cert']),
        ('[endpoint."a:1"]\nhost_keys = ["MD5:x"]', ['endpoint."a:1".host_keys[0]: expected SHA256:..., as ssh-keygen -l prints it']),
        ('[endpoint."a:1"]\nambient = true\nprofile = "p"', ['endpoint."a:1": profile and ambient exclude each other']),
        ('[endpoint."a:1"]\nrole_arn = "r"', ['endpoint."a:1".role_arn: goes with one of jwt_file, jwt_variable, profile, ambient, credentials']),
        ('[endpoint."a:1"]\nanonymous = true\nexternal_id = "planted"', ['endpoint."a:1".external_id: goes with one of']),
        ('[endpoint."a:1"]\ncredentials = "artifacts.toml"', ['endpoint."a:1".credentials: {folder}/artifacts.toml: ']),
        ('[endpoint."a:1"]\nambient = true\nsession_seconds = 60', ['endpoint."a:1".session_seconds: expected greater than or equal to 900']),
        ('[endpoint."a:1"]\nambient = true\nsession_name = "a b"', ["endpoint.\"a:1\".session_name: the session name is 'a b'"]),
        ('[endpoint."h"]\n[endpoint."h:443"]', ['endpoint."h:443": is the same server as endpoint.h']),
        ('[endpoint."*.1.2.3.4"]', ['endpoint."*.1.2.3.4": the endpoint https://*.1.2.3.4 is no pattern']),
        ('[endpoint."sftp.corp"]\nurl = "sftp://sftp.corp"\nbuckets = ["b"]', ['endpoint."sftp.corp".url: the endpoint sftp://sftp.corp has no buckets']),
        ('[endpoint.aws]\nca = "artifacts.toml"\nurl = "https://x"', ["endpoint.aws.ca: AWS itself has none", "endpoint.aws.url: AWS itself has none", "endpoint.aws.ca: {folder}/artifacts.toml holds no"]),
        ("endpoint = 5", ["endpoint: expected a valid dictionary"]),
        ("[endpoint]\na = 5", ["endpoint.a: expected"]),
        ('[issuer."https://i"]\nendpoints = ["https://x"]', ['issuer."https://i".endpoints[0]: https://... names no endpoint']),
        ('[issuer."https://i"]\nsts_endpoint = "sts.corp"', ['issuer."https://i".sts_endpoint: the endpoint']),
        ('[limits]\nmax_bytes = "lots"\nmax_depth = 0\nmax_ratio = true', ["limits.max_bytes: expected a size such as 500MB or 10GiB", "limits.max_depth: expected greater than or equal to 1", "limits.max_ratio: expected a valid integer"]),
        ("[limits]\nkeep_free = -1", ["limits.keep_free: expected greater than or equal to 0"]),
        ('[policy]\nlend_to = ["a b"]\nfile_roots = [1]', ["policy.file_roots[0]: expected a valid string", "policy.lend_to[0]: "]),
        ("[network]\nretries = -1\nread_timeout = 0\nconnect_timeout = inf", ["network.connect_timeout: expected a finite number", "network.read_timeout: expected greater than 0", "network.retries: expected greater than or equal to 0"]),
        ('[network]\nclient_key = "k"', ["network.client_key: goes with client_cert", "network.client_key: {folder}/k is no file"]),
        ('[limits]\nmax_depth = 0\n[endpoint."a:1"]\nregion = 5\nrole_arn = "r"', ['endpoint."a:1".region: expected', "limits.max_depth: expected", 'endpoint."a:1".role_arn: goes with']),
        ('[endpoint."a:1"]\ncredentials = "k.json"', ['endpoint."a:1".credentials: {folder}/k.json is no file']),
        ('[network]\nhttps_proxy = ["planted"]', ["network.https_proxy: expected a valid string"]),
    ],
)  # fmt: skip
def test_wrong_values(tmp_path, text, problems):
    """One error gathers every problem, each with the path of its key, and holds no value of a secret key."""
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    for found, problem in zip(raised.value.problems, problems, strict=True):
        assert found.startswith(problem.format(folder=tmp_path)), found
    assert str(raised.value) == f"{tmp_path / 'artifacts.toml'}: {'; '.join(raised.value.problems)}"
    assert "planted" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "version: expected 1, got none"),
        ("version = 2", "version: expected 1, got 2"),
        ('version = "planted"', "version: expected 1, got a str"),
        ("version = true", "version: expected 1, got True"),
        ("version =", "Invalid value"),
        (b"version = 1 # \xff", "it is no text in UTF-8"),
    ],
)
def test_no_file_of_this_version(tmp_path, text, said):
    """A file of another version, or no TOML at all, is refused before anything else is looked at."""
    path = tmp_path / "artifacts.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        configuration.load(path)
    assert "planted" not in str(raised.value)


def test_unknown_keys_are_told_with_what_was_meant(tmp_path):
    """Everywhere in the file, and the rest is read."""
    settings = load(
        tmp_path,
        'netwrok = 1\n[endpoint."a:1"]\nregon = "x"\n[issuer."i"]\nrole = "r"\n[limits]\nmax_byte = 1\n[policy]\nxyzzy = 1\n'
        "[network]\nretry = 1\n[cachet]\nx = 1\n[cache]\nmax_byte = 1\n",
    )
    prefix = f"{tmp_path / 'artifacts.toml'}: "
    assert [warning.removeprefix(prefix) for warning in settings.warnings] == [
        "netwrok is not read; did you mean network?",
        "cachet is not read; did you mean cache?",
        'endpoint."a:1".regon is not read; did you mean region?',
        "issuer.i.role is not read; did you mean role_arn?",
        "network.retry is not read; did you mean retry_for?",
        "policy.xyzzy is not read",
        "limits.max_byte is not read; did you mean max_bytes?",
        "cache.max_byte is not read; did you mean max_bytes?",
    ]
    assert [endpoint.host for endpoint in settings.endpoints] == ["a:1"]


def test_what_becomes_of_the_values(tmp_path, monkeypatch):
    """Names, sizes, paths (of the file's folder, or the user's) and sources become entries, options and limits."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    authority = Authority(tmp_path)
    fill(tmp_path, {"ca.pem": authority.pem, "keys.json": json.dumps(credentials(servers.READER)), "home/known": ""})
    settings = load(
        tmp_path,
        f"""
[endpoint."*.s3.corp:9000"]
ca = "ca.pem"
buckets = ["data-*"]
jwt_variable = "TOKEN"
role_arn = "arn:r"
session_seconds = 900
[endpoint."sftp.corp"]
url = "sftp://sftp.corp"
known_hosts = "~/known"
host_keys = ["SHA256:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]
credentials = "keys.json"
[endpoint.aws]
profile = "ml"
buckets = []
[limits]
max_bytes = "1GiB"
keep_free = 5
[policy]
file_roots = ["sets", "/data"]
lend_to = ["aws"]
audit = "audit.jsonl"
[network]
client_cert = "{authority.client_cert}"
retries = 2
no_proxy = ".corp"
""",
    )
    pattern, sftp, aws = settings.endpoints
    assert (pattern.url, pattern.host) == ("https://*.s3.corp:9000", "*.s3.corp:9000")
    assert (pattern.certificates.ca_pem, pattern.buckets) == (authority.pem, ("data-*",))
    assert (str(pattern.lent.token), pattern.lent.sts.role_arn) == ("the variable TOKEN", "arn:r")
    assert (sftp.url, sftp.ssh.known_hosts) == ("sftp://sftp.corp", f"{tmp_path}/home/known")
    assert sftp.lent.credentials.aws.access_key == servers.READER.access_key
    assert (aws.host, aws.lent.profile, aws.buckets) == (AWS, "ml", ())
    assert (settings.limits, settings.keep_free_bytes) == ({"max_bytes": 1 << 30}, 5)
    assert settings.file_roots == (f"{tmp_path}/sets", "/data")
    assert (settings.lend_to, settings.audit) == (("aws",), f"{tmp_path}/audit.jsonl")
    assert settings.network == {"client_cert": authority.client_cert, "retries": 2}
    assert settings.proxies == {"no": ".corp"}
    assert servers.READER.secret_key not in repr(settings)
    # A certificate of the command line takes no key of the file's.
    assert settings.filled({"client_cert": "mine", "client_key": None, "retries": None}) == {
        "client_cert": "mine",
        "client_key": None,
        "retries": 2,
    }


def test_the_command_line_comes_first(tmp_path, monkeypatch):
    """Endpoints: command line, environment, file; one that the file knows by the same URL keeps its entry."""
    file = load(tmp_path, '[endpoint."a:1"]\nurl = "http://a:1"\nregion = "r"\n[endpoint."b:1"]\n').endpoints
    environ = {"ARTIFACTS_ENDPOINTS": "http://b:1, http://c:1"}
    chosen = {
        endpoint.host: endpoint for endpoint in configuration.endpoints(["http://a:1", "https://c:1"], environ, file)
    }
    assert {host: endpoint.url for host, endpoint in chosen.items()} == {
        "a:1": "http://a:1",
        "b:1": "http://b:1",
        "c:1": "https://c:1",
    }
    assert chosen["a:1"].region == "r"


# The commands.


def test_init_check_and_show(tmp_path):
    """A new user's way: write the file, see that it is valid, change it, see what holds and on which line."""
    env = {"XDG_CONFIG_HOME": str(tmp_path / "etc")}
    none = run("config", "check", env=env)
    assert (none.code, none.said) == (
        2,
        ["error: there is no configuration file (hint: artifacts config init writes one)"],
    )
    path = tmp_path / "etc" / "artifacts" / "artifacts.toml"
    made = run("config", "init", env=env)
    assert (made.code, made.said) == (0, [f"wrote {path}"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = run("config", "init", env=env)
    assert (again.code, again.said) == (
        2,
        [f"error: {path} exists, and is not overwritten (hint: give another name with -o)"],
    )
    assert run("config", "init", "-o", tmp_path / "other.toml", env=env).code == 0
    assert (tmp_path / "other.toml").read_text() == path.read_text() == schema.template()
    valid = run("config", "check", env=env)
    assert (valid.code, valid.out, valid.err) == (0, f"{path}\tvalid\n", "")

    path.write_text(path.read_text().replace("#[network]", "[network]").replace("#retries = 5", "retries = 7"))
    shown = run(
        "config", "show", "--origin", "--retry-for", "9", "--endpoint", "http://m:1", "--lend-to", "aws", env=env
    )
    lines = dict(line.split("\t", 1) for line in shown.out.splitlines())
    number = (
        path.read_text().splitlines().index(next(x for x in path.read_text().splitlines() if x.startswith("retries")))
    )
    assert lines["network.retries"] == f"7\tfile, line {number + 1}"
    assert lines["network.retry_for"] == "9\tcommand line"
    assert lines["network.read_timeout"] == "60\tdefault"
    assert lines['endpoint."m:1".url'] == "http://m:1\tcommand line"
    assert lines["policy.lend_to"] == "aws\tcommand line"
    assert lines["config"] == f"{path}\tdefault"
    plain = run("config", "show", env={**env, "ARTIFACTS_ENDPOINTS": "http://m:1"})
    assert "network.retries\t7\n" in plain.out
    assert 'endpoint."m:1".url\thttp://m:1\n' in plain.out


def test_check_of_a_wrong_file(tmp_path):
    """Exit 2 with every problem; a warning is none; --json has both as lists."""
    path = tmp_path / "a.toml"
    path.write_text('version = 1\nx = 1\n[endpoint."a:1"]\njwt_file = "token"\n[network]\n')
    warned = run("config", "check", path, "--json")
    assert (warned.code, warned.lines[0]["valid"], warned.lines[0]["problems"]) == (0, True, [])
    assert warned.lines[0]["warnings"] == [
        f"{path}: x is not read",
        f'{path}: endpoint."a:1".jwt_file: {tmp_path}/token is no file yet',
    ]
    path.write_text("version = 1\n[network]\nretries = -1\nread_timeout = 'x'\n")
    wrong = run("config", "check", path)
    assert wrong.code == 2
    assert "network.retries: expected" in wrong.err
    assert "network.read_timeout: expected a valid number" in wrong.err
    as_json = run("config", "check", path, "--json")
    assert (as_json.code, as_json.lines[0]["valid"], len(as_json.lines[0]["problems"])) == (2, False, 2)


def test_show_holds_no_secret(tmp_path):
    """Proxies without their password, what is hidden as ***, a credentials file by its path; every origin by name."""
    fill(tmp_path, {"keys.json": json.dumps({"plain": {"user": "u", "password": "planted-password"}})})
    path = tmp_path / "a.toml"
    path.write_text(
        'version = 1\n[endpoint."a:1"]\ncredentials = "keys.json"\nrole_arn = "arn:r"\nexternal_id = "planted-id"\n'
        '[network]\nhttp_proxy = "http://u:planted-proxy@p:1"\nhttps_proxy = "http://file:1"\n'
    )
    env = {"ARTIFACTS_CONFIG": str(path), "HTTPS_PROXY": "http://x:planted-env@q:1"}
    shown = run("config", "show", "--origin", "--json", "--profile", "p", env=env)
    assert shown.code == 0, shown.err
    found = {line["name"]: (line["value"], line["origin"], line["line"]) for line in shown.lines[:-1]}
    assert found["config"] == (str(path), "environment", None)
    assert found["network.http_proxy"] == ("http://***@p:1", "file", 7)
    assert found["network.https_proxy"] == ("http://***@q:1", "environment", None)
    assert found['endpoint."a:1".url'] == ("https://a:1", "default", None)
    assert found['endpoint."a:1".credentials'] == ("keys.json", "file", 3)
    assert found['endpoint."a:1".external_id'] == ("***", "file", 5)
    assert found["options.profile"] == ("p", "command line", None)
    assert "planted" not in shown.out + shown.err


# Obeyed.


def test_limits_roots_and_network_of_the_file(bench):
    """A limit, a file root and a retry count of the file hold; the command line comes before them; check shows them."""
    data = fill(bench.folder / "data", {"ws.tar": tar({"a": b"123456"})})
    artifact = {"qualified": f"file://{data}/ws.tar", "unpack": True}
    request = bench.request({"a": artifact})
    config = bench.folder / "a.toml"
    config.write_text('version = 1\n[limits]\nmax_bytes = 5\n[policy]\nfile_roots = ["data"]\n[network]\nretries = 0\n')
    stopped = run("stage", request, "--into", bench.job, "--config", config, "--json")
    assert (stopped.code, stopped.error("a")["code"]) == (8, "limit-exceeded")
    assert run("stage", request, "--into", bench.job, "--config", config, "--max-bytes", "6").code == 0
    away = bench.request({"k": bench.artifact("k") | {"qualified": "s3://127.0.0.1:9/b/k"}})
    refused = ("check", away, "--config", config, "--endpoint", "http://127.0.0.1:9")
    shown = run(*refused, "-v")
    assert "network.retries: 0 (file)" in shown.said
    assert run(*refused, "--json", "--retries", "1").lines[-2]["settings"]["network.retries"] == 1
    config.write_text("version = 1\n[limits]\nmax_artifacts = 1\n")
    both = bench.request({"a": artifact, "b": artifact})
    assert run("check", both, "--config", config, "--file-root", data).code == 8


def test_each_endpoints_own_authority(bench, tmp_path):
    """Two servers with two private authorities in one request: each entry's own serves it, and not the other."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    one, two = (Authority(folder) for folder in folders)
    for folder, authority in zip(folders, (one, two), strict=True):
        (folder / "ca.pem").write_bytes(authority.pem)
    bench.put("ws.tar", tar({"a": b"1"}))
    with (
        tls_front(bench.server.address, one) as first,
        tls_front(bench.server.address, two, client_cert=True) as second,
    ):
        hosts = [f"localhost:{front.port}" for front in (first, second)]
        request = bench.request(
            {
                name: bench.artifact("ws.tar") | {"qualified": f"s3://{host}/{bench.bucket}/ws.tar"}
                for name, host in zip(("one", "two"), hosts, strict=True)
            }
        )
        config = tmp_path / "a.toml"

        def write(names):
            config.write_text(
                "version = 1\n"
                f'[endpoint."{hosts[0]}"]\nca = "{names[0]}/ca.pem"\n'
                f'[endpoint."{hosts[1]}"]\nca = "{names[1]}/ca.pem"\n'
                f'client_cert = "{two.client_cert}"\nclient_key = "{two.client_key}"\n'
            )

        write(("one", "two"))
        done = run("stage", request, "--into", bench.job, "--config", config)
        assert done.code == 0, done.err
        assert {name: (bench.job / name / "a").read_bytes() for name in ("one", "two")} == {"one": b"1", "two": b"1"}
        write(("two", "one"))
        swapped = run("check", request, "--config", config)
        assert swapped.code == 2
        assert swapped.err.count("the server's certificate is not trusted") == 2
        # What the command line adds is trusted everywhere.
        assert run("check", request, "--config", config, "--ca", tmp_path / "one" / "ca.pem").code == 2
        write(("one", "one"))
        assert run("check", request, "--config", config, "--ca", tmp_path / "two" / "ca.pem").code == 0


def test_a_redirect_trusts_the_other_servers_own_authority(bench, tmp_path):
    """Over http a redirect's target is held to its own entry: neither the first server's authority nor none will do."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    (tmp_path / "one.pem").write_bytes(one.pem)
    (tmp_path / "two.pem").write_bytes(two.pem)
    target = ""

    class Redirecting(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    bench.put("k", b"content")
    sender = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=sender.serve_forever, args=(0.02,))
    thread.start()
    try:
        with tls_front(sender.server_address, one) as first, tls_front(bench.server.address, two) as second:
            target = f"https://localhost:{second.port}/{bench.bucket}/k"
            config = tmp_path / "a.toml"
            own = f'[endpoint."localhost:{first.port}"]\nca = "one.pem"\n[endpoint."localhost:{second.port}"]\n'
            request = bench.request(
                {"k": {"qualified": f"https://localhost:{first.port}/k", "unpack": False, "credentials": {}}}
            )
            for more, said in (('ca = "one.pem"\n', "certificate is refused"), ('ca = "two.pem"\n', "403")):
                config.write_text(f"version = 1\n{own}{more}")
                result = run("check", request, "--config", config)
                assert said in result.err
            audit = tmp_path / "audit.jsonl"
            run("check", request, "--config", config, "--audit", audit)
            steps = [json.loads(line) for line in audit.read_text().splitlines()]
            assert [(line["step"], line["label"], line["allowed"]) for line in steps] == [
                ("open", "k", True),
                ("redirect", "k", True),
            ]
            # A bucket that its entry does not allow is no target of a redirect either.
            config.write_text(f'version = 1\n{own}ca = "two.pem"\nbuckets = ["other"]\n')
            refused = run("check", request, "--config", config, "--audit", audit, "--json")
            assert refused.code == 3
            assert refused.lines[0]["error"]["rule"] == "bucket"
            last = json.loads(audit.read_text().splitlines()[-1])
            assert (last["step"], last["allowed"], last["rule"]) == ("redirect", False, "bucket")
    finally:
        sender.shutdown()
        thread.join()
        sender.server_close()


def test_an_endpoints_own_token_file(federated, issuer, tmp_path):
    """An entry's jwt_file and role serve a request without a credential, over its own authority on the STS leg too."""
    server = federated
    server.client().put_object(Bucket=servers.SHARED_BUCKET, Key="data.tar", Body=tar({"x": b"1"}))
    (tmp_path / "token").write_text(made := issuer.mint())
    authority = Authority(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with tls_front(server.address, authority) as front:
        host = f"localhost:{front.port}"
        config = tmp_path / "a.toml"
        entry = f'version = 1\n[endpoint."{host}"]\nca = "ca.pem"\n'
        config.write_text(f'{entry}jwt_file = "token"\nrole_arn = "{servers.ROLE_RW}"\n')
        artifacts = {"data": {"qualified": f"s3://{host}/data/data.tar", "unpack": True, "credentials": {}}}
        request = tmp_path / "r.json"
        request.write_text(json.dumps({"experiment": {"artifacts": artifacts}}))
        done = run("stage", request, "--into", tmp_path / "job", "--config", config, "--json")
        assert done.code == 0, done.err
        told = done.receipts["data"]["credential"]
        assert (told["kind"], told["source"]) == ("jwt", "token")
        got = run("get", f"s3://{host}/data/data.tar", tmp_path / "copy", "--config", config)
        assert (got.code, got.said) == (0, [f"credentials: those of the endpoint {host} in {config}"])
        assert made not in done.out + done.err
        # The caller's word comes before the entry's: nobody at all.
        assert run("get", f"s3://{host}/data/data.tar", tmp_path / "copy", "--config", config, "--anonymous").code == 5
        # Without the entry's token the request has nobody's.
        config.write_text(entry)
        assert run("stage", request, "--into", tmp_path / "other", "--config", config).code == 5


def test_an_endpoints_own_credentials_file(bench):
    """A request's credentials object in a file serves there; the receipt says whose it was; the request's own comes first."""
    bench.put("ws.tar", tar({"a": b"1"}))
    fill(bench.folder, {"keys.json": json.dumps(credentials(servers.ADMIN))})
    config = bench.folder / "a.toml"
    config.write_text(f'version = 1\n[endpoint."{bench.host}"]\nurl = "{bench.url}"\ncredentials = "keys.json"\n')
    request = bench.request({"a": bench.artifact("ws.tar", credentials={})})
    done = run("stage", request, "--into", bench.job, "--config", config, "--json")
    assert done.code == 0, done.err
    assert done.receipts["a"]["credential"]["source"] == "endpoint"
    assert done.receipts["a"]["credential"]["kind"] == "aws"
    own = bench.request({"a": bench.artifact("ws.tar", credentials=credentials(servers.READER))})
    assert run("check", own, "--config", config).code == 5


def test_an_sftp_server_of_the_file(tmp_path):
    """Its host key and login are in its entry; a request then needs neither, and another host key is refused."""
    with ftpservers.asyncssh_sftp() as server:
        host = f"127.0.0.1:{server.port}"
        (server.root / "data.tar").write_bytes(tar({"x": b"1"}))
        login = {"plain": {"user": ftpservers.USER, "password": ftpservers.PASSWORD}}
        fill(tmp_path, {"login.json": json.dumps(login)})
        artifacts = {"data": {"qualified": f"sftp://{host}/data.tar", "unpack": True}}
        request = fill(tmp_path, {"r.json": json.dumps({"experiment": {"artifacts": artifacts}})}) / "r.json"
        config = tmp_path / "a.toml"
        entry = f'version = 1\n[endpoint."{host}"]\nurl = "sftp://{host}"\ncredentials = "login.json"\nhost_keys = '
        config.write_text(f'{entry}["{server.fingerprint}"]\n')
        done = run("stage", request, "--into", tmp_path / "job", "--config", config, "--json")
        assert done.code == 0, done.err
        assert (tmp_path / "job" / "data" / "x").read_bytes() == b"1"
        assert done.receipts["data"]["credential"]["source"] == "endpoint"
        config.write_text(f'{entry}["SHA256:{"A" * 43}"]\n')
        refused = run("check", request, "--config", config)
        assert refused.code == 2
        assert server.fingerprint in refused.err


def test_a_proxy_of_the_file(bench):
    """The file's proxy is used; the environment's comes before it, and NO_PROXY of the environment bypasses both."""
    bench.put("ws.tar", tar({"a": b"1"}))
    request = bench.request({"a": bench.artifact("ws.tar")})
    config = bench.folder / "a.toml"
    with forward_proxy() as proxy, forward_proxy() as other:
        config.write_text(f'version = 1\n[network]\nhttp_proxy = "http://127.0.0.1:{proxy.port}"\n')
        check = ("check", request, "--config", config, "--endpoint", bench.url)
        for env, used in (
            ({}, (True, False)),
            ({"HTTP_PROXY": f"http://127.0.0.1:{other.port}"}, (False, True)),
            ({"NO_PROXY": "127.0.0.1"}, (False, False)),
        ):
            proxy.connects.clear()
            other.connects.clear()
            assert run(*check, env=env).code == 0
            assert (bool(proxy.connects), bool(other.connects)) == used


def test_no_file_no_schema():
    """Where there is no file, neither the schema nor what it needs is loaded to say so."""
    assert "pydantic" not in loaded("from artifacts.cli import config\nconfig.find(None, {})\nconfig.Settings()")
