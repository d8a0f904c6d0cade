"""Answers of the server as typed values."""

from __future__ import annotations

import json
from typing import TypeVar

from upscaled import serial
from upscaled.client.errors import UnexpectedAnswerError

T = TypeVar("T")


def parsed(text: str) -> object:
    """Return a text as JSON.

    Raises:
        UnexpectedAnswerError: it is none.
    """
    try:
        return json.loads(text)
    except ValueError:
        raise UnexpectedAnswerError("The server sends no JSON.") from None


def typed(document: object, type_: type[T]) -> T:
    """Return an answer as ``type_``.

    Raises:
        UnexpectedAnswerError: something in it is missing or of another type.
    """
    try:
        return serial.convert(document, type_)
    except ValueError as error:
        raise UnexpectedAnswerError(
            f"The server's answer is not what this client expects: {error}."
        ) from None
