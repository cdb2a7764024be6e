"""Credentials as values: masked wherever they show, equal and hashable, never carried by a pickle."""

import copy
import pickle
import subprocess
import sys

import pytest
from pydantic import ValidationError

from creds.errors import CredentialError
from creds.models import AWSCredential, Credentials, JWTCredential, PlainCredential
from creds.secret import Secret

PLANTED = "planted-7f3a"
ALL = Credentials(
    plain=PlainCredential(user="u", password=PLANTED),
    jwt=JWTCredential(token=PLANTED),
    aws=AWSCredential(access_key="AK", secret_access_key=PLANTED, session_token=PLANTED, region="eu-west-1"),
)


def test_plain_strings_become_secrets():
    assert ALL.aws.secret_access_key.get_secret_value() == PLANTED
    assert isinstance(ALL.jwt.token, Secret)
    assert AWSCredential(access_key="a", secret_access_key=Secret("b")).secret_access_key == Secret("b")


def test_zero_values_are_those_of_the_wire():
    assert (Credentials().plain, Credentials().jwt, Credentials().aws) == (None, None, None)
    assert AWSCredential().access_key == ""
    assert AWSCredential().secret_access_key.get_secret_value() == ""
    assert (AWSCredential().session_token, AWSCredential().region, AWSCredential().profile) == (None, None, None)


@pytest.mark.parametrize(
    "show", [repr, str, lambda value: value.model_dump_json(), lambda value: str(value.model_dump())]
)
def test_nothing_that_shows_a_credential_shows_its_secret(show):
    assert PLANTED not in show(ALL)
    assert "**********" in show(ALL)


def test_a_pickle_carries_no_secret():
    pickled = pickle.dumps(ALL)
    assert PLANTED.encode() not in pickled
    loaded = pickle.loads(pickled)
    assert loaded.aws.access_key == "AK"
    assert repr(loaded.jwt.token) == "Secret('**********')"
    with pytest.raises(CredentialError, match="masked when it was pickled"):
        loaded.jwt.token.get_secret_value()
    assert pickle.loads(pickle.dumps(loaded.jwt.token)) != loaded.jwt.token
    assert pickle.loads(pickle.dumps(AWSCredential())) == AWSCredential()
    assert loaded.jwt.token != Secret(PLANTED)
    assert loaded.jwt.token != loaded.aws.secret_access_key
    assert len({loaded.jwt.token, loaded.jwt.token, loaded.aws.secret_access_key}) == 2


def test_copies_keep_the_value():
    for made in (copy.copy(ALL), copy.deepcopy(ALL), ALL.model_copy(deep=True)):
        assert made == ALL
        assert made.plain.password.get_secret_value() == PLANTED


def test_credentials_are_equal_and_hashed_by_value():
    same = Credentials(jwt=JWTCredential(token="t"))
    assert same == Credentials(jwt=JWTCredential(token="t"))
    assert hash(same) == hash(Credentials(jwt=JWTCredential(token="t")))
    assert same != Credentials(jwt=JWTCredential(token="other"))
    assert {Secret("a"): 1}[Secret("a")] == 1
    assert Secret("a") != "a"


def test_an_empty_secret_shows_that_it_is_empty():
    assert repr(Secret("")) == "Secret('')"
    assert not Secret("")
    assert Secret("a")
    assert len(Secret("abc")) == 3


def test_credentials_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        ALL.aws = None


def test_a_name_that_is_no_field_is_refused_without_its_value():
    with pytest.raises(ValidationError) as raised:
        AWSCredential(access_key="a", secret_key=PLANTED)
    assert "secret_key" in str(raised.value)
    assert PLANTED not in str(raised.value)
    with pytest.raises(ValidationError) as raised:
        PlainCredential(user=[PLANTED])
    assert PLANTED not in str(raised.value)


def test_creds_models_need_nothing_of_artifacts():
    program = "import sys, creds.models; print([n for n in sys.modules if n.split('.')[0] in ('artifacts', 'boto3')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
