"""Requests as Python objects: names, defaults, hints, errors, sizes, and what never shows."""

import pickle
import subprocess
import sys
import traceback
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, SecretStr

from artifacts.errors import RequestError
from artifacts.gojson import OMIT_EMPTY
from artifacts.request import (
    Artifact,
    Config,
    Database,
    Experiment,
    Info,
    Request,
    Resource,
    RunnerCustom,
    dumps,
    loads,
    loads_credentials,
    parse_size,
)
from benchmarks.programs import parse
from creds.models import AWSCredential, Credentials, JWTCredential
from creds.secret import Secret

PLANTED = "planted-7f3a"


def test_an_empty_request_is_the_reference_zero_value():
    assert dumps(Request()) == (
        b'{"config":{"cloud":null,"database":{"apiKey":"","authDomain":"","databaseURL":"","messagingSenderId":0,'
        b'"projectId":"","storageBucket":"","type":"","use_email_auth":false,"credentials":{"plain":null,"jwt":null,'
        b'"aws":null}},"saveWorkspaceFrequency":"","experimentLifetime":"","verbose":"","env":null,"pip":null,'
        b'"runner":{"slack_destination":""}},"experiment":{"args":null,"artifacts":null,"filename":"","git":null,'
        b'"info":{},"key":"","metric":null,"project":null,"pythonenv":null,"pythonver":"","resources_needed":{"cpus":0,'
        b'"gpus":0,"hdd":"","ram":"","gpuMem":"","gpuCount":0},"status":"","time_added":0,"max_duration":"",'
        b'"time_finished":null,"time_last_checkpoint":null,"time_started":null}}'
    )
    for document in (b"{}", "null", bytearray(b" {} "), b'{"config":null,"experiment":{}}'):
        assert dumps(loads(document)) == dumps(Request())
        assert loads(document) == Request()


def test_models_are_built_by_either_name_and_are_mutable():
    assert Resource(gpu_mem="1gb", gpuCount=2) == Resource(gpuMem="1gb", gpu_count=2)
    request = Request(config=Config(saveWorkspaceFrequency="1m"), experiment=Experiment(artifacts={"a": Artifact()}))
    request.experiment.artifacts["a"].key = "k"
    request.config.database = Database(apiKey="s", messaging_sender_id=5)
    request.config.runner = RunnerCustom(slack_destination="#x")
    request.experiment.info = Info()
    request.experiment.metric = {"b": [1, 2.5, None, 2**63, (True,)], "a": "\u2028"}
    written = dumps(request)
    assert b'"key":"k"' in written
    assert b'"apiKey":"s","authDomain":"","databaseURL":"","messagingSenderId":5' in written
    assert b'"metric":{"a":"\\u2028","b":[1,2.5,null,9223372036854776000,[true]]}' in written
    request.experiment.metric["b"][-1] = [True]
    assert loads(written) == request


def test_mutable_defaults_are_not_shared():
    first, second = loads(b"{}"), loads(b"{}")
    first.config.verbose = "x"
    first.experiment.resources_needed.cpus = 3
    assert (second.config.verbose, second.experiment.resources_needed.cpus) == ("", 0)
    assert (Request().config.verbose, Request().experiment.resources_needed.cpus) == ("", 0)


def test_fields_beyond_the_reference_are_written_after_its_own_only_where_they_came():
    document = (
        b'{"experiment":{"artifacts":{"a":{"url":"http://h/x","SAVEFREQUENCY":90,"credentials":{"aws":{"profile":"",'
        b'"region":"r","session_token":"t","access_key":"A","secret_access_key":"S"}}},"b":{"url":null}}}}'
    )
    request = loads(document)
    artifact = request.experiment.artifacts["a"]
    assert (artifact.save_frequency, artifact.url) == (90, "http://h/x")
    assert artifact.credentials.aws.session_token == Secret("t")
    assert request.experiment.artifacts["b"].url is None
    assert (
        b'{"a":{"bucket":"","key":"","mutable":false,"unpack":false,"qualified":"","credentials":{"plain":null,"jwt":null,'
        b'"aws":{"access_key":"A","secret_access_key":"S","session_token":"t","region":"r","profile":""}},'
        b'"saveFrequency":90,"url":"http://h/x"},"b":{"bucket":"","key":"","mutable":false,"unpack":false,'
        b'"qualified":"","credentials":{"plain":null,"jwt":null,"aws":null}}}'
    ) in dumps(request)
    with pytest.raises(RequestError, match=r"^experiment\.artifacts\.a\.url: expected string, got number$"):
        loads(b'{"experiment":{"artifacts":{"a":{"url":1}}}}')


def test_unknown_fields_are_dropped_or_kept_at_every_level():
    document = (
        b'{"z":[1.50,12345678901234567890, {"b":1,"a":"<"}],"config":{"storage":{"type":"s3"},"env":{}},"experiment":'
        b'{"info":{"x":null},"artifacts":{"a":{"n":-0,"credentials":{"aws":{"role":"r"},"kms":1e400}}}}}'
    )
    assert b'"storage"' not in dumps(loads(document))
    kept = dumps(loads(document, keep_unknown=True))
    assert kept.endswith(b',"z":[1.50,12345678901234567890,{"a":"\\u003c","b":1}]}')
    assert b'"runner":{"slack_destination":""},"storage":{"type":"s3"}}' in kept
    assert b'"info":{"x":null}' in kept
    assert b'"aws":{"access_key":"","secret_access_key":"","role":"r"},"kms":1e400},"n":-0}' in kept
    assert dumps(loads(kept, keep_unknown=True)) == kept
    assert dumps(loads(kept)) == dumps(loads(document))
    artifact = loads(document, keep_unknown=True).experiment.artifacts["a"].clone()
    assert b'"n":-0' in dumps(Request(experiment=Experiment(artifacts={"a": artifact})))


@pytest.mark.parametrize(
    ("document", "warnings"),
    [
        ('{"experiment":{"artifacts":{"w":{"credentials":{"aws":{"secret_key":"S"}}}}}}',
         ["experiment.artifacts.w.credentials.aws.secret_key is not read; did you mean secret_access_key?"]),
        ('{"config":{"database":{"credentials":{"aws":{"accessKey":"A","password":"S","x":1}}}}}',
         ["config.database.credentials.aws.accessKey is not read; did you mean access_key?",
          "config.database.credentials.aws.password is not read; did you mean secret_access_key?"]),
        ('{"experiment":{"artifacts":{"a b":{"unpackk":true,"save_frequency":3}},"resources_needed":{"gpu_mem":"1gb"}}}',
         ["experiment.artifacts.a b.unpackk is not read; did you mean unpack?",
          "experiment.artifacts.a b.save_frequency is not read; did you mean saveFrequency?",
          "experiment.resources_needed.gpu_mem is not read; did you mean gpuMem?"]),
        ('{"experiment":{"project_version":"1","x":1},"config":{"storage":{},"optimizer":1},"secret_key":1}', []),
        ('{"Experiment":{"KEY":"k"}}', []),
    ],
)  # fmt: skip
def test_near_misses_are_hinted_at_and_not_read(document, warnings):
    assert list(loads(document).warnings) == warnings
    assert list(loads(document, keep_unknown=True).warnings) == warnings
    assert b"secret_key" not in dumps(loads(document))


def test_every_offending_field_is_named_and_no_value_is():
    document = f"""{{"config":{{"env":{{"A":["{PLANTED}"]}},"pip":["x",{{"{PLANTED}":1}}],"runner":"{PLANTED}"}},
        "experiment":{{"key":["{PLANTED}"],"time_added":"{PLANTED}","artifacts":{{"workspace":{{"mutable":"{PLANTED}"}},
        "new\\nline":{{"credentials":{{"jwt":"{PLANTED}"}}}}}}}}}}"""
    with pytest.raises(RequestError) as raised:
        loads(document)
    assert raised.value.problems == (
        "config.env.A: expected string, got array",
        "config.pip.1: expected string, got object",
        "config.runner: expected object, got string",
        "experiment.key: expected string, got array",
        "experiment.time_added: expected float64, got string",
        "experiment.artifacts.workspace.mutable: expected bool, got string",
        "experiment.artifacts.new\\nline.credentials.jwt: expected object, got string",
    )
    assert raised.value.code == "request"
    shown = "".join(traceback.format_exception(raised.value))
    assert PLANTED not in shown
    assert "pydantic" not in shown


def test_a_syntax_error_names_its_place_and_quotes_nothing():
    with pytest.raises(RequestError) as raised:
        loads(f'{{"experiment": {{\n  "key": "{PLANTED}" "x"}}}}')
    assert str(raised.value) == "line 2, column 25: expected a comma or }, found something else"
    with pytest.raises(RequestError, match=r"^line 1, column 1: expected a value, found the end of the document$"):
        loads(b"")


def test_what_is_no_document_is_a_type_error():
    with pytest.raises(TypeError, match="bytes or str, not int"):
        loads(5)


def test_load_reads_a_file_and_names_one_it_cannot(tmp_path):
    path = tmp_path / "request.json"
    path.write_bytes(b'{"experiment":{"key":"k","x":1}}')
    assert Request.load(path).experiment.key == "k"
    assert b'"x":1' in dumps(Request.load(str(path), keep_unknown=True))
    with pytest.raises(RequestError, match="missing.json: No such file or directory") as raised:
        Request.load(tmp_path / "missing.json")
    assert isinstance(raised.value.__cause__, FileNotFoundError)


def secret_request():
    return loads(
        f"""{{"config":{{"env":{{"AWS_SECRET_ACCESS_KEY":"{PLANTED}"}},"cloud":{{"k":"{PLANTED}"}},
        "database":{{"apiKey":"{PLANTED}","credentials":{{"plain":{{"user":"u","password":"{PLANTED}"}}}}}}}},
        "experiment":{{"git":"{PLANTED}","artifacts":{{"a":{{"credentials":{{"aws":{{"access_key":"AK",
        "secret_access_key":"{PLANTED}","session_token":"{PLANTED}"}}}}}}}}}}}}"""
    )


def test_nothing_but_dumps_shows_a_secret():
    request = secret_request()
    assert dumps(request).count(PLANTED.encode()) == 7
    for show in (repr, str):
        assert PLANTED not in show(request)
        assert "AWS_SECRET_ACCESS_KEY" in show(request)
        assert "access_key='AK'" in show(request)
    assert PLANTED not in repr(request.config)
    kept = loads(f'{{"config":{{"x":"{PLANTED}"}}}}', keep_unknown=True)
    assert PLANTED not in repr(kept)


def test_a_request_out_of_a_pickle_says_which_secrets_it_lacks():
    request = pickle.loads(pickle.dumps(Request(experiment=secret_request().experiment)))
    with pytest.raises(RequestError) as raised:
        dumps(request)
    assert raised.value.problems == (
        "experiment.artifacts.a.credentials.aws.secret_access_key: this secret was masked when it was pickled",
        "experiment.artifacts.a.credentials.aws.session_token: this secret was masked when it was pickled",
    )


def test_what_the_wire_cannot_hold_is_refused_by_name():
    request = Request(experiment=Experiment(artifacts={"a": Artifact()}))
    request.experiment.artifacts["a"].bucket = None
    request.experiment.artifacts["a"].mutable = "yes"
    request.experiment.artifacts["a"].save_frequency = float("nan")
    request.experiment.artifacts["b"] = "x"
    request.experiment.resources_needed.cpus = -1
    request.experiment.metric = {"a": {1, 2}}
    request.experiment.git = float("inf")
    request.experiment.project = {"a": {1: "b"}}
    request.experiment.time_started = [10**400]
    request.experiment.args = ["a", 1]
    request.config.env = {"a": PLANTED, "b": 5}
    with pytest.raises(RequestError) as raised:
        dumps(request)
    assert [problem.split(":")[0] for problem in raised.value.problems] == [
        "config.env",
        "experiment.args",
        "experiment.artifacts.a.bucket",
        "experiment.artifacts.a.mutable",
        "experiment.artifacts.a.saveFrequency",
        "experiment.artifacts.b",
        "experiment.git",
        "experiment.metric",
        "experiment.project",
        "experiment.resources_needed.cpus",
        "experiment.time_started",
    ]
    assert PLANTED not in str(raised.value)
    with pytest.raises(RequestError, match="document: not a Request"):
        dumps(None)


def test_a_value_that_holds_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(RequestError, match=r"experiment\.metric: nested deeper than 10000 levels"):
        dumps(Request(experiment=Experiment(metric=loop)))


def test_half_a_surrogate_pair_is_written_as_go_writes_an_invalid_byte():
    assert b'"key":"a\\ufffdb"' in dumps(Request(experiment=Experiment(key="a\udc80b")))
    assert loads('{"experiment":{"key":"a\udc80b"}}').experiment.key == "a\ufffdb"


def test_clones_share_nothing_and_keep_secrets():
    artifact = Artifact(key="k", credentials=Credentials(jwt=JWTCredential(token="t")))
    clone = artifact.clone()
    clone.key = "other"
    assert (artifact.key, clone.credentials.jwt.token.get_secret_value()) == ("k", "t")
    resource = Resource(cpus=1)
    other = resource.clone()
    other.cpus = 2
    assert (resource.cpus, other.cpus) == (1, 2)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 0),
        ("0", 0),
        ("6gb", 6_000_000_000),
        ("2GiB", 2 << 30),
        ("512 MB", 512_000_000),
        ("1,024", 1024),
        ("1,000,000 kb", 1_000_000_000),
        ("42 mib", 44040192),
        ("1.5g", 1_500_000_000),
        (".5k", 500),
        ("5.", 5),
        ("1.9", 1),
        ("7e", 7_000_000_000_000_000_000),
        ("15 EiB", 15 << 60),
        ("3Ti ", 3 << 40),
        ("3\u2003pb", 3 * 10**15),
        ("1 \u212ab", 1000),
        ("18446744073709549568", 18446744073709549568),
    ],
)
def test_sizes_are_read_as_humanize_reads_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "gb",
        " 1gb",
        "-1",
        "+1",
        "1.2.3",
        ".",
        ",",
        "1 zb",
        "1e3",
        "1 g b",
        "\u0661",
        "1gb\x1c",
        "16eib",
        "9" * 400,
        "18446744073709551615",
        "inf",
        "nan",
    ],
)
def test_what_is_no_size_is_refused_without_quoting_it(text):
    with pytest.raises(RequestError) as raised:
        parse_size(text)
    assert str(raised.value) in ("not a size", "a size of 2**64 bytes or more")


def test_fits_compares_every_amount():
    has = Resource(cpus=4, gpus=1, hdd="10gb", ram="8GiB", gpu_mem="2gb", gpu_count=2)
    assert Resource().fits(has)
    assert has.fits(has)
    assert Resource(cpus=4, ram="8GiB").fits(has)
    more = ({"cpus": 5}, {"gpus": 2}, {"hdd": "10.1gb"}, {"ram": "9gib"}, {"gpu_mem": "3gb"}, {"gpu_count": 3})
    assert [Resource(**need).fits(has) for need in more] == [False] * 6
    assert not Resource(hdd="1").fits(Resource())


def test_fits_names_every_size_it_cannot_read():
    with pytest.raises(RequestError) as raised:
        Resource(hdd="lots", ram="1gb", gpu_mem="x").fits(Resource())
    assert raised.value.problems == ("needed.hdd: not a size", "needed.gpuMem: not a size")
    with pytest.raises(RequestError, match="available.ram: not a size"):
        Resource().fits(Resource(ram="?"))


def test_credentials_alone_are_read_strictly():
    credentials = loads_credentials(b'{"aws":{"access_key":"A","secret_access_key":"S"}}')
    assert credentials == Credentials(aws=AWSCredential(access_key="A", secret_access_key="S"))
    assert hash(credentials) == hash(Credentials(aws=AWSCredential(access_key="A", secret_access_key="S")))
    with pytest.raises(RequestError, match=r"aws\.secret_key is not read; did you mean secret_access_key\?"):
        loads_credentials('{"aws":{"access_key":"A","secret_key":"S"}}')


def test_models_validate_and_copy_as_pydantic_models_do():
    request = loads('{"config":{"env":{"a":"b"}},"experiment":{"artifacts":{"a":{"key":"k","x":1}}}}')
    assert request.experiment.artifacts["a"].model_fields_set == {"key"}
    assert request.model_copy(deep=True) == request
    assert Artifact(key="k") == request.experiment.artifacts["a"]
    assert Artifact(bucket="k") != request.experiment.artifacts["a"]
    request.experiment.artifacts["a"].bucket = "b"
    assert request.experiment.artifacts["a"].model_fields_set == {"key", "bucket"}
    with pytest.raises(ValueError, match="no field"):
        request.experiment.artifacts["a"].bukket = "b"
    assert Request.model_validate(request.model_dump()) == request


def test_importing_the_request_module_loads_no_client():
    program = "import sys, artifacts.request; print([n for n in ('boto3', 'click', 'rich', 'jwt') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_benchmarks_peer_has_the_very_fields_and_types():
    def bare(annotation):
        """The type inside Annotated and beside None, and its bounds."""
        arguments = [argument for argument in get_args(annotation) if argument is not NoneType]
        if get_origin(annotation) is Annotated:
            inner, marks = arguments[0], arguments[1:]
            return inner, [mark for each in marks for mark in getattr(each, "metadata", [])]
        if get_origin(annotation) in (Union, UnionType):
            return bare(arguments[0])
        return annotation, []

    def compare(ours, peers):
        if isinstance(ours, type) and issubclass(ours, BaseModel):
            fields = {info.alias or name: info for name, info in ours.model_fields.items()}
            assert list(fields) == list(peers.model_fields)
            for name, info in fields.items():
                inner, marks = bare(peers.model_fields[name].annotation)
                compare(bare(info.annotation)[0], inner)
                assert marks == [mark for mark in info.metadata if mark is not OMIT_EMPTY], name
        elif get_args(ours):
            assert get_origin(ours) is get_origin(peers)
            compare(get_args(ours)[-1], bare(get_args(peers)[-1])[0])
        else:
            assert peers is (SecretStr if ours is Secret else ours)

    compare(Request, parse.Whole)
