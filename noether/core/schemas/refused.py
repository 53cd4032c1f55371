"""What a validator of a config raises to say which part of a value it refuses, and what to do instead."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

REFUSED = "refused"


def refused(message: str, *, hint: str, below: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """Return an error to raise where a `ValueError` would point at too much.

    Args:
        message: What is wrong.
        hint: What to type or change.
        below: Keys and indices from the value that is validated to the part of it that is refused.
    """
    return PydanticCustomError(REFUSED, "{message}", {"message": message, "hint": hint, "below": below})
