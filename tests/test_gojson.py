"""The wire form against the reference's recorded answers, its rules one by one, and both parsers against each other."""

import base64
import json
import math
import random
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts import gojson
from artifacts.errors import RequestError
from artifacts.request import _codec, dumps, loads

VECTORS = [
    json.loads(line) for line in (Path(__file__).parent / "vectors/request_vectors.jsonl").read_bytes().splitlines()
]
DOCUMENTS = [v["in"].encode() if "in" in v else base64.b64decode(v["in_b64"]) for v in VECTORS]


def exact(document):
    return dumps(_codec().exact(document)[0])


def fast(document):
    """The fast parser's answer, or None where it leaves the document to the exact one."""
    try:
        return dumps(_codec().fast(document))
    except gojson._GiveUp:
        return None


def outcome(read, document):
    try:
        return read(document)
    except RequestError:
        return "refused"


@pytest.mark.parametrize("number", range(len(VECTORS)))
def test_every_vector_gets_the_references_answer(number):
    vector, document = VECTORS[number], DOCUMENTS[number]
    expected = vector["out"].encode() if vector["ok"] else "refused"
    assert outcome(lambda data: dumps(loads(data)), document) == expected
    assert outcome(exact, document) == expected


def test_the_fast_parser_takes_every_large_valid_vector():
    large = [d for v, d in zip(VECTORS, DOCUMENTS, strict=True) if v["ok"] and "in" in v and len(d) > 1500]
    assert len(large) == 84
    assert [fast(document) is None for document in large] == [False] * 84


@pytest.mark.parametrize(
    "members",
    ['"key" : "a"', '"key"\t:\r\n"a b"', '"x" :{"key" :"a"}', '"git":[ 0 , 1 ]', '"git":"- 1"', '"metric":{}'],
)
def test_the_fast_parser_takes_space_anywhere(members):
    document = f'{{ "experiment" :\n{{{members} }} }} '.encode()
    assert fast(document) == exact(document)


# --- rules of the reference, each as (document, what of the output it decides) ---

EMPTY = json.loads(dumps(loads("{}")))


def experiment(document):
    """The written experiment, without what is as in an empty document."""
    written = json.loads(exact(document))["experiment"]
    assert outcome(lambda data: dumps(loads(data)), document.encode()) == exact(document)
    return {name: value for name, value in written.items() if value != EMPTY["experiment"][name]}


def config(document):
    written = json.loads(exact(document))["config"]
    assert outcome(lambda data: dumps(loads(data)), document.encode()) == exact(document)
    return {name: value for name, value in written.items() if value != EMPTY["config"][name]}


@pytest.mark.parametrize(
    ("members", "written"),
    [
        ('"key":"a","KEY":"b"', {"key": "b"}),
        ('"KEY":"a","key":"b"', {"key": "b"}),
        ('"\u212aey":"kelvin"', {"key": "kelvin"}),
        ('"\\u212aEy":"kelvin"', {"key": "kelvin"}),
        ('"arg\u017f":["long s"]', {"args": ["long s"]}),
        ('"k\u0435y":"cyrillic"', {}),
        ('"key ":"x","_key":"y","k_ey":"z"', {}),
        ('"key":"a","key":null', {"key": "a"}),
        ('"args":["a","b","c"],"args":["x",null]', {"args": ["x", "b"]}),
        ('"args":["a","b","c"],"args":["x"],"args":[null,null,null,null]', {"args": ["x", "b", "c", ""]}),
        ('"args":["a","b"],"args":[],"args":[null,null]', {"args": ["", ""]}),
        ('"args":["a"],"args":null,"args":[null]', {"args": [""]}),
        ('"args" :["a","b"],"args"\n:["x",null]', {"args": ["x", "b"]}),  # space hides no name from the count
        ('"args":["a","b"],"args":["x",null],"git":"\\" :"', {"args": ["x", "b"], "git": '" :'}),
        ('"args":["a"],"args":null', {}),
        ('"args":[]', {"args": []}),
        ('"args":[null,"x"]', {"args": ["", "x"]}),
        ('"metric":{"a":1},"metric":{"b":2}', {"metric": {"b": 2}}),
        ('"metric":{"a":{"x":1},"a":{"y":2}}', {"metric": {"a": {"y": 2}}}),
        ('"metric":[1],"metric":null', {}),
        ('"metric":[],"git":{}', {"metric": [], "git": {}}),
        ('"info":{"anything":[1,{"a":2}]}', {}),
        ('"info":null,"resources_needed":null', {}),
        (
            '"resources_needed":{"cpus":1},"resources_needed":{"gpus":2}',
            {"resources_needed": EMPTY["experiment"]["resources_needed"] | {"cpus": 1, "gpus": 2}},
        ),
        (
            '"resources_needed":{"GPUMEM":"1gb","gpucount":18446744073709551615}',
            {
                "resources_needed": EMPTY["experiment"]["resources_needed"]
                | {"gpuMem": "1gb", "gpuCount": 18446744073709551615}
            },
        ),
        ('"time_added":9007199254740993', {"time_added": 9007199254740992}),
        ('"artifacts":null', {}),
        ('"artifacts":{}', {"artifacts": {}}),
        ('"unread":[1e400,{"a":NULL}]'.replace("NULL", "null"), {}),
        ('"unread":' + "9" * 5000, {}),
        ('"key":"\\ud83d\\ude00"', {"key": "\U0001f600"}),
        ('"key":"\\ud83d\\ud83d\\ude00"', {"key": "\ufffd\U0001f600"}),
        ('"key":"\\ude00\\ud83d"', {"key": "\ufffd\ufffd"}),
        ('"key":"\\ud83dx\\n"', {"key": "\ufffdx\n"}),
        ('"key":"\\\\ud83d\\ude00"', {"key": "\\ud83d\ufffd"}),
        ('"key":"\\/\\b\\f\\n\\r\\t\\u0000\\"\\\\"', {"key": '/\b\f\n\r\t\x00"\\'}),
    ],
)
def test_members_of_an_experiment(members, written):
    assert experiment(f'{{"experiment":{{{members}}}}}') == written


@pytest.mark.parametrize(
    ("members", "artifact"),
    [
        ('"a":{"bucket":"1"},"a":{"key":"2"}', {"key": "2"}),  # a member of a map starts from zero
        ('"a":{"bucket":"1"},"a":null', {}),
        ('"a":{"bucket":"1","bucket":null}', {"bucket": "1"}),
        ('"a":{"mutable":true,"MUTABLE":null,"unpack":null}', {"mutable": True}),
        ('"a":{"hash":"h","local":"","Hash":""}', {}),
        ('"a":{"hash":"h","local":"l"}', {"hash": "h", "local": "l"}),
        ('"a":{"credentials":{"jwt":{"token":"a"}},"credentials":{"jwt":{}}}', {"jwt": {"token": "a"}}),
        ('"a":{"credentials":{"jwt":{"token":"a"}},"credentials":{"jwt":null}}', {}),
        ('"a":{"credentials":{"jwt":{"token":"a"},"jwt":null,"JWT":{}}}', {"jwt": {"token": ""}}),
        ('"a":{"credentials":{"jwt":{"token":"a"}},"credentials":null}', {"jwt": {"token": "a"}}),
        (
            '"a":{"credentials":{"aws":{"access_key":"A"},"AWS":{"secret_access_key":"S"}}}',
            {"aws": {"access_key": "A", "secret_access_key": "S"}},
        ),
    ],
)
def test_members_of_an_artifact(members, artifact):
    kinds = {name: artifact.pop(name) for name in ("plain", "jwt", "aws") if name in artifact}
    zero = {"bucket": "", "key": "", "mutable": False, "unpack": False, "qualified": ""}
    credentials = {"plain": None, "jwt": None, "aws": None} | kinds
    expected = {"artifacts": {"a": zero | artifact | {"credentials": credentials}}}
    assert experiment(f'{{"experiment":{{"artifacts":{{{members}}}}}}}') == expected


def test_a_second_object_adds_to_the_same_map():
    document = '{"experiment":{"artifacts":{"a":{"key":"1"}},"artifacts":{"b":{},"a":{"bucket":"2"}}}}'
    artifacts = experiment(document)["artifacts"]
    assert [(label, artifact["bucket"], artifact["key"]) for label, artifact in artifacts.items()] == [
        ("a", "2", ""),
        ("b", "", ""),
    ]


@pytest.mark.parametrize(
    ("members", "written"),
    [
        ('"env":{"a":"1"},"env":{"b":"2"}', {"env": {"a": "1", "b": "2"}}),
        ('"env":{"a":"1","a":null}', {"env": {"a": ""}}),
        ('"env":{"a":"1"},"env":null,"env":{"b":"2"}', {"env": {"b": "2"}}),
        ('"env":{}', {"env": {}}),
        ('"runner":null,"runner":{"SLACK_DESTINATION":"#x"}', {"runner": {"slack_destination": "#x"}}),
        ('"verbose":"a","verbose":null', {"verbose": "a"}),
        ('"saveworkspacefrequency":"1m","EXPERIMENTLIFETIME":"1h"', None),
    ],
)
def test_members_of_a_config(members, written):
    expected = {"saveWorkspaceFrequency": "1m", "experimentLifetime": "1h"} if written is None else written
    assert config(f'{{"config":{{{members}}}}}') == expected


@pytest.mark.parametrize(
    "document",
    [
        "",
        " ",
        "[]",
        "1",
        '"x"',
        "{",
        "{}}",
        "{} {}",
        "{},",
        "\ufeff{}",
        "{}\x00",
        "{}\x0c",
        "\u00a0{}",
        "{'a':1}",
        '{"a"}',
        '{"a":}',
        '{"a" 1}',
        '{"a":1,}',
        '{,"a":1}',
        '{"a":[1,]}',
        '{"a":[1 2]}',
        '{"a":[}',
        '{"a":"\n"}',
        '{"a":"\x1f"}',
        '{"a":"\\x"}',
        '{"a":"\\u12g4"}',
        '{"a":"\\u+123"}',
        '{"a":"\\ud83d\\u12"}',
        '{"a":"',
        '{"a":"\\',
        '{"a":+1}',
        '{"a":01}',
        '{"a":-}',
        '{"a":-01}',
        '{"a":1.}',
        '{"a":1.e1}',
        '{"a":1e}',
        '{"a":1e+}',
        '{"a":0x1}',
        '{"a":1_0}',
        '{"a":\u0661}',
        '{"a":nul}',
        '{"a":True}',
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"experiment":{"git":[NaN]}}',
        '{"experiment":{"git":Infinity}}',
        "nullx",
        "// c\n{}",
        '{"a":1 /* c */}',
        '{"experiment":{"metric":{"a":1e400,"a":1}}}',
        '{"experiment":{"metric":[' + "9" * 310 + "]}}",
        '{"experiment":{"time_added":' + "9" * 310 + "}}",
        '{"experiment":{"time_added":"1"}}',
        '{"experiment":{"key":"a","key":1,"key":"b"}}',
        '{"experiment":{"resources_needed":{"cpus":-0}}}',
        '{"experiment":{"resources_needed":{"cpus":-1}}}',
        '{"experiment":{"resources_needed":{"cpus":1e2}}}',
        '{"experiment":{"resources_needed":{"cpus":18446744073709551616}}}',
        '{"experiment":{"resources_needed":{"cpus":true}}}',
        '{"config":{"database":{"messagingSenderId":-9223372036854775809}}}',
        '{"config":{"database":{"messagingSenderId":"1"}}}',
        '{"config":{"env":["a"]}}',
        '{"config":{"pip":{}}}',
        '{"config":[]}',
        '{"experiment":{"artifacts":[]}}',
        '{"experiment":{"artifacts":{"a":{"credentials":[]}}}}',
        '{"experiment":{"artifacts":{"a":{"credentials":{"aws":{"access_key":null,"secret_access_key":{}}}}}}}',
    ],
)
def test_refused_by_both(document):
    assert outcome(exact, document) == "refused"
    assert outcome(lambda data: dumps(loads(data)), document) == "refused"
    assert fast(document.encode()) is None


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b"\xff", "\ufffd"),
        (b"\xe2\x82", "\ufffd\ufffd"),
        (b"\xf0\x9f\x98", "\ufffd\ufffd\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xc0\xaf", "\ufffd\ufffd"),
        (b"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"),
        (b"\xc3(", "\ufffd("),
        (b"a\xe2\x82\xacb", "a\u20acb"),
    ],
)
def test_each_invalid_byte_is_one_mark(raw, read):
    document = b'{"experiment":{"key":"' + raw + b'"}}'
    assert loads(document).experiment.key == read
    assert json.loads(exact(document))["experiment"]["key"] == read


def test_names_that_become_equal_by_replacement_are_duplicates():
    document = b'{"config":{"env":{"\xff":"1","\xfe":"2","a":"3"}}}'
    assert loads(document).config.env == {"\ufffd": "2", "a": "3"}


@pytest.mark.parametrize(
    ("number", "written"),
    [
        ("1", "1"),
        ("1.0", "1"),
        ("-0", "-0"),
        ("-0.0", "-0"),
        ("0e5", "0"),
        ("1e-400", "0"),
        ("-1e-400", "-0"),
        ("1.50", "1.5"),
        ("100", "100"),
        ("1e20", "100000000000000000000"),
        ("123456789012345678901", "123456789012345680000"),
        ("1e21", "1e+21"),
        ("1.5e21", "1.5e+21"),
        ("-1e300", "-1e+300"),
        ("1e-6", "0.000001"),
        ("1.234e-5", "0.00001234"),
        ("1e-7", "1e-7"),
        ("9.99e-7", "9.99e-7"),
        ("1e-10", "1e-10"),
        ("5e-324", "5e-324"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("0.1", "0.1"),
        ("9007199254740993", "9007199254740992"),
        ("123456789.12345679", "123456789.12345679"),
    ],
)
def test_floats_are_written_as_go_writes_them(number, written):
    document = f'{{"experiment":{{"time_added":{number},"metric":[{number}],"git":{number}}}}}'
    output = dumps(loads(document)).decode()
    assert f'"time_added":{written},' in output
    assert f'"metric":[{written}],' in output
    assert f'"git":{written},' in output
    assert exact(document).decode() == output


def test_untyped_numbers_are_floats_by_both_parsers():
    document = b'{"experiment":{"git":1,"metric":{"a":[2]}}}'
    for request in (_codec().fast(document), _codec().exact(document)[0]):
        assert type(request.experiment.git) is float
        assert type(request.experiment.metric["a"][0]) is float


def test_strings_are_escaped_as_go_escapes_them():
    text = "".join(map(chr, range(0x80))) + "\u2027\u2028\u2029\u202a\u00e9\U0001f600\ufffd\ufffe"
    output = dumps(loads(json.dumps({"experiment": {"key": text, "git": {text: text}}}))).decode()
    quoted = json.dumps(text, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
    quoted = quoted.replace("&", "\\u0026").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    assert f'"git":{{{quoted}:{quoted}}}' in output
    assert f'"key":{quoted}' in output
    assert "\x7f" in output
    assert "\\b\\t\\n\\u000b\\f\\r" in output


def test_map_keys_are_sorted_by_bytes():
    names = ["\U0001f600", "\uffff", "a", "B", "", "\u00e9", "a\x00"]
    document = json.dumps({"config": {"env": dict.fromkeys(names, "x")}, "experiment": {"git": dict.fromkeys(names)}})
    written = json.loads(dumps(loads(document)))
    expected = sorted(names, key=str.encode)
    assert list(written["config"]["env"]) == expected
    assert list(written["experiment"]["git"]) == expected


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"":', "}")])
@pytest.mark.parametrize("name", ["metric", "unread"])
def test_ten_thousand_levels_are_read_and_written_and_one_more_is_not(opening, closing, name):
    inner = "[]" if opening == "[" else "{}"

    def document(levels):  # the document and the experiment are two, the innermost is one
        return f'{{"experiment":{{"{name}":{opening * (levels - 3)}{inner}{closing * (levels - 3)}}}}}'

    written = dumps(loads(document(10_000)))
    assert (opening * 9_997 + inner in written.decode()) == (name == "metric")
    with pytest.raises(RequestError, match="at most 10000 levels"):
        loads(document(10_001))
    if name == "unread":
        assert opening * 9_997 + inner in dumps(loads(document(10_000), keep_unknown=True)).decode()


def test_a_flood_of_openings_is_refused_quickly_and_without_recursion():
    with pytest.raises(RequestError, match="at most 10000 levels"):
        loads("[" * 5_000_000)


# --- the two parsers against each other ---

NAMES = st.sampled_from(
    [
        *(
            "config experiment artifacts env pip args key metric git status credentials plain jwt aws token user"
        ).split(),
        *("bucket qualified mutable unpack hash local url saveFrequency cpus gpuMem gpuCount hdd time_added").split(),
        *("resources_needed info runner database apiKey messagingSenderId use_email_auth KEY Key secret_key x").split(),
        *("access_key secret_access_key session_token gpu_mem storage").split(),
        *("", "a b", "<&>", "\u2028", "\u00e9", "arg\u017f", 'q"', "back\\", ":", "\ufffd"),
    ]
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(
        ["-0", "-0.0", "0", "1.0", "1e2", "1E-7", "1e21", "1e400", "-1e400", "1e-400", "18446744073709551615"]
    ),
)
STRINGS = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    [":", '":', '":x', "\\", "\\u", "-0", " :"]
)
SCALARS = (
    NUMBERS
    | STRINGS.map(json.dumps)
    | STRINGS.map(lambda text: json.dumps(text, ensure_ascii=False))
    | st.sampled_from(["null", "true", "false", '"\\ud800"', '"\\udc00x"', '""', "[]", "{}", "[null]"])
)
SPACE = st.sampled_from(["", "", "", "", " ", "\n", "\t "])


def assemble(pairs):
    return "{" + ",".join(f"{json.dumps(name)}{before}:{after}{value}" for name, before, after, value in pairs) + "}"


VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(NAMES, SPACE, SPACE, inner), max_size=5).map(assemble)
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=300, deadline=None, database=None)
def test_both_parsers_agree_on_anything(value):
    for document in (
        value,
        f'{{"experiment":{value}}}',
        f'{{"experiment":{{"artifacts":{{"a":{value},"b":{value}}}}}}}',
    ):
        quick = fast(document.encode())
        if quick is not None:
            assert quick == exact(document)


def typed(depth_names):
    """Objects whose members mostly have the type that the struct wants."""
    return st.lists(st.sampled_from(depth_names), max_size=6).flatmap(
        lambda chosen: st.tuples(*(members for _, members in chosen)).map(
            lambda values: "{" + ",".join(f'"{name}":{v}' for (name, _), v in zip(chosen, values, strict=True)) + "}"
        )
    )


TEXT = STRINGS.map(json.dumps) | st.just("null")
SWITCH = st.sampled_from(["true", "false", "null"])
COUNT = st.sampled_from(["0", "1", "-0", "null", "18446744073709551615", "18446744073709551616", "1.0"])
AWS = typed(
    [("access_key", TEXT), ("secret_access_key", TEXT), ("SECRET_ACCESS_KEY", TEXT), ("region", TEXT), ("x", TEXT)]
)
CREDENTIALS = typed([("aws", AWS | st.just("null")), ("jwt", typed([("token", TEXT)])), ("AWS", AWS), ("x", VALUES)])
ARTIFACT = typed(
    [
        ("bucket", TEXT),
        ("KEY", TEXT),
        ("key", TEXT),
        ("hash", TEXT),
        ("mutable", SWITCH),
        ("credentials", CREDENTIALS | st.just("null")),
        ("saveFrequency", NUMBERS),
        ("url", TEXT),
        ("other", VALUES),
    ]
)
EXPERIMENT = typed(
    [
        ("args", st.lists(TEXT, max_size=3).map(lambda items: f"[{','.join(items)}]")),
        ("artifacts", typed([("a", ARTIFACT), ("b", ARTIFACT | st.just("null"))])),
        ("info", typed([("x", VALUES)])),
        ("metric", VALUES),
        ("git", VALUES),
        ("resources_needed", typed([("cpus", COUNT), ("gpuCount", COUNT), ("hdd", TEXT)])),
        ("time_added", NUMBERS),
        ("TIME_ADDED", NUMBERS),
        ("status", TEXT),
        ("project_version", VALUES),
    ]
)
CONFIG = typed(
    [
        ("env", typed([("A", TEXT), ("b", TEXT), ("\\u00e9", TEXT)])),
        ("database", typed([("apiKey", TEXT), ("messagingSenderId", COUNT), ("credentials", CREDENTIALS)])),
        ("pip", st.just('["a",null]')),
        ("cloud", VALUES),
        ("runner", typed([("slack_destination", TEXT)])),
        ("storage", VALUES),
    ]
)
REQUESTS = typed([("experiment", EXPERIMENT), ("config", CONFIG), ("Experiment", EXPERIMENT), ("other", VALUES)])


@given(REQUESTS)
@settings(max_examples=500, deadline=None, database=None)
def test_both_parsers_agree_on_requests_with_duplicates_and_near_types(document):
    quick = outcome(fast, document.encode())
    slow = outcome(exact, document)
    assert quick is None or quick == slow
    assert outcome(lambda data: dumps(loads(data)), document) == slow
    if quick is not None:
        assert _codec().fast(document.encode()) == _codec().exact(document)[0]


@pytest.mark.parametrize("seed", range(20))
def test_both_parsers_agree_on_mutated_vectors(seed):
    chance = random.Random(seed)
    for document in chance.sample(DOCUMENTS, 40):
        mutated = bytearray(document)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(mutated) + 1)
            choice = chance.randrange(4)
            if choice == 0:
                mutated[at : at + 1] = chance.choice(
                    [b"", b'"', b":", b" ", b"\\", b"0", b"-0", b"\xff", b",", b"}", b"e"]
                )
            elif choice == 1:
                mutated.insert(at, chance.randrange(256))
            elif choice == 2:
                end = min(len(mutated), at + chance.randint(1, 40))
                mutated[at:at] = mutated[at:end]
            else:
                del mutated[at : at + chance.randint(1, 5)]
        quick = fast(bytes(mutated))
        assert quick is None or quick == exact(bytes(mutated))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70) | STRINGS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(STRINGS | st.integers(), inner, max_size=4)
    ),
)


@given(PLAIN, st.sampled_from([0, 1, 400, 1_500]))
@settings(max_examples=300, deadline=None, database=None)
def test_an_untyped_value_is_written_the_same_with_recursion_and_without(value, depth):
    for _ in range(depth):
        value = [value]

    def text(write):
        try:
            return write(value)
        except (TypeError, ValueError):
            return "refused"

    assert text(gojson._untyped_text) == text(gojson.any_text)


def test_what_is_written_is_read_again_and_written_the_same():
    for vector in VECTORS:
        if vector["ok"]:
            written = vector["out"].encode()
            assert dumps(loads(written)) == written


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=300, deadline=None, database=None)
def test_a_written_float_is_the_same_float(value):
    text = gojson.number_text(value)
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    assert ("e" in text) == (value != 0 and not 1e-6 <= abs(value) < 1e21)
    assert set(text) <= set(string.digits + "+-.e")
