"""Values that must never be shown: whoever reads one registers it, whoever writes text masks it."""

from __future__ import annotations

import logging
import traceback

MASK = "***"
SHORTEST = 4
"""A shorter text is no secret, and masking it would make every message unreadable."""

_secrets: set[str] = set()


def remember_secret(value: str) -> None:
    """Mask `value` from now on, in this process, wherever text passes `mask`."""
    if len(value) >= SHORTEST:
        _secrets.add(value)


def mask(text: str) -> str:
    """Return the text with every secret value replaced by `***`, the longest ones first."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def masked_traceback(error: BaseException) -> str:
    """Return the traceback of an error as Python prints it, without secret values."""
    return mask("".join(traceback.format_exception(error)))


class MaskSecrets(logging.Filter):
    """Takes secret values out of a log record: out of its message, and out of the traceback that it carries."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, masked; without any secret it stays as it is."""
        if _secrets:
            record.msg, record.args = mask(record.getMessage()), None
            if record.exc_info and record.exc_info[1] is not None:
                record.exc_text = masked_traceback(record.exc_info[1]).rstrip("\n")
        return True
