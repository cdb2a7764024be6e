"""What botocore's own loggers may say at DEBUG: everything but the secrets in what is sent, and what servers say.

AWS repeats a session token that it refuses in its answer. Filters on these loggers are the one thing here that others
in the process meet: their botocore's records are masked in the same way.
"""

from __future__ import annotations

import logging
import re

_SENT = ("botocore.auth", "botocore.endpoint")
_SAID = "botocore.parsers"
_SECRET_HEADERS = re.compile(
    r"(?i)(x-amz-security-token|server-side-encryption-customer-key|proxy-authorization)(['\"]?\s*[:=]\s*b?['\"]?)[^\s'\",&;]+"
)


class _Masking(logging.Filter):
    """Replaces the values of headers that are secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _SECRET_HEADERS.sub(r"\1\2****", record.getMessage()), ()
        return True


class _Withholding(logging.Filter):
    """Keeps what kind of record it is, and none of its content."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = f"{str(record.msg).partition(':')[0]}: not shown", ()
        record.exc_info = record.exc_text = None
        return True


_MASKING, _WITHHOLDING = _Masking(), _Withholding()


def mask() -> None:
    """Let botocore's loggers show no secret; a second call changes nothing."""
    for name in _SENT:
        logging.getLogger(name).addFilter(_MASKING)
    logging.getLogger(_SAID).addFilter(_WITHHOLDING)
