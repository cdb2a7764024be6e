"""Does the server hold the conditions on writes? Asked once, and doubted when it shows otherwise."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace

from creds.errors import BucketNotFound, ObjectChanged, ObjectNotFound, StoreError, Unauthenticated
from creds.stores.s3.parts import Part
from creds.stores.s3.verb import Verb


class Conditions:
    """What is known of one server; None where nothing is known yet."""

    def __init__(self, enforced: bool | None) -> None:
        self._enforced = enforced

    def enforced(self, verb: Verb) -> bool:
        """Does it hold them? The question is put beside the verb's key, where the policy lets us write."""
        if self._enforced is None:
            folder = verb.key.rpartition("/")[0]
            scratch = f"{folder}/.condition-{secrets.token_hex(8)}".lstrip("/")
            self._enforced = _probe(replace(verb, key=scratch))
        return self._enforced

    def distrust(self) -> None:
        """Remember that the server does not treat them as it should."""
        self._enforced = False


def _probe(verb: Verb) -> bool:
    """Ask to overwrite, if it has an ETag that it cannot have, an object that does not exist.

    A server that holds conditions refuses (412, or 404) and stores nothing. One that stores the object does not.
    """
    impossible = f'"{"0" * 32}"'
    try:
        verb.call(lambda: verb.ask("PutObject", "PUT", asked={"if-match": impossible}, body=Part(())))
    except (ObjectChanged, ObjectNotFound):
        return True
    except (BucketNotFound, Unauthenticated):
        raise
    except StoreError as error:
        if error.retryable:
            raise
        return False
    # Best effort: the answer is known, and the write that asked for it will tell what is wrong.
    with contextlib.suppress(StoreError):
        verb.call(lambda: verb.ask("DeleteObject", "DELETE"))
    return False
