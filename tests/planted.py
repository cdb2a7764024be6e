"""Looking for a secret in what was printed or left, in every form that it may take."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import quote, quote_plus


def forms(secret: str) -> set[str]:
    """A secret as it is, URL-encoded, and in base64 (both alphabets) at each alignment."""
    raw = secret.encode()
    encoded = {base64.b64encode(b"x" * shift + raw).decode()[4:-4] for shift in range(3)}
    encoded |= {text.translate(str.maketrans("+/", "-_")) for text in encoded}
    return {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1]} | encoded


def found_in(text: str, secrets: Iterable[str]) -> list[str]:
    """Those of ``secrets`` that are in ``text`` in some form."""
    return [secret for secret in secrets if any(form in text for form in forms(secret))]
