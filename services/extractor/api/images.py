"""Images and texts in the body of a request: texts, data URIs, an image's bytes, or a form with one file."""

from __future__ import annotations

import base64
import binascii
import re
from email.message import Message
from typing import Final

from shoal.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from shoal.inline import MAX_TEXT

from extractor.online.wire import MAX_BYTES

PIECE: Final = 1 << 19  # characters of base64; four encode three bytes
FORM_FIELDS: Final = ("data", "body")
"""Names that TorchServe's clients give to the file of a form."""
_DATA_URI = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,")


def decode_data_uris(inputs: list[str], hint: str = "") -> list[bytes]:
    """The bytes of each image.

    Parameters
    ----------
    hint
        What else to do, for an error about an input that is no data URI.

    Raises
    ------
    InvalidRequest
        One is not a base64 data URI (URLs are not fetched), or together they are too large.
    """
    images = []
    for index, text in enumerate(inputs):
        match = _DATA_URI.match(text)
        if match is None:
            send = "send `data:image/png;base64,…`"
            what = f"is not a data URI: {send}. URLs are not fetched. {hint}".rstrip()
            if hint and "://" not in text:
                what = f"is not a data URI of an image. {hint} For an image {send}."
            raise InvalidRequest(f"`input` {index} {what}", field="input")
        try:
            images.append(_decoded(text, match.end()))
        except binascii.Error as error:
            raise InvalidRequest(f"`input` {index} is not valid base64: {error}.", field="input") from error
    if sum(len(image) for image in images) > MAX_BYTES:
        raise InvalidRequest(f"`input` holds more than {MAX_BYTES:,} bytes: send fewer images at once.", field="input")
    return images


def texts_of(inputs: list[str]) -> list[bytes]:
    """Texts in UTF-8.

    Raises
    ------
    InvalidRequest
        One is longer than `MAX_TEXT`, blank, or no text in UTF-8.
    """
    texts = []
    for index, text in enumerate(inputs):
        if len(text) > MAX_TEXT or not text.strip():
            found = f"has {len(text):,} characters" if text.strip() else "is blank"
            raise InvalidRequest(
                f"`input` {index} {found}: send a text of 1 to {MAX_TEXT:,} characters.", field="input"
            )
        try:
            texts.append(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"`input` {index} is not text in UTF-8: {error}.", field="input") from error
    return texts


def _decoded(text: str, start: int) -> bytes:
    """The bytes of the base64 after ``start``, decoded in pieces, between which other threads run."""
    pieces = []
    for at in range(start, len(text), PIECE):
        piece = text[at : at + PIECE]
        if "=" in piece and at + PIECE < len(text):
            raise binascii.Error("data after the padding")
        pieces.append(base64.b64decode(piece, validate=True))
    return b"".join(pieces)


def image_of(body: bytes, content_type: str, url: str) -> bytes:
    """The image in the body of a request: the body itself, or the one file of a form.

    Parameters
    ----------
    content_type
        The header; only ``multipart/form-data`` and JSON have a meaning.
    url
        Of the request, for the command in an error.

    Raises
    ------
    UnsupportedMediaType
        The body is JSON, or a form that holds something else than one file named `data` or `body`.
    BodyTooLarge
        The image is larger than `MAX_BYTES`.
    InvalidRequest
        The body is empty.
    """
    header = Message()
    header["Content-Type"] = content_type or "application/octet-stream"
    command = f"`curl --data-binary @IMAGE {url}`"
    if header.get_content_type() == "application/json":
        raise UnsupportedMediaType(f"Send the bytes of one image as the body, not JSON: {command}.")
    if header.get_content_maintype() == "multipart":
        found = _file_of_form(body, header.get_boundary() or "")
        if found is None:
            raise UnsupportedMediaType(
                f"Send the bytes of one image as the body: {command}. A form must be multipart/form-data with exactly "
                "one file, named `data` or `body`."
            )
        body = found
    if len(body) > MAX_BYTES:
        raise BodyTooLarge(f"The image is larger than {MAX_BYTES:,} bytes.", max_bytes=MAX_BYTES)
    if not body:
        raise InvalidRequest(f"The body is empty. Send the bytes of one image: {command}.")
    return body


def _file_of_form(body: bytes, boundary: str) -> bytes | None:
    """The content of the only part of a form, if that is a file with an expected name."""
    edge = b"--" + boundary.encode("latin-1", "replace")
    head_end = body.find(b"\r\n\r\n")
    if not boundary or not body.startswith(edge + b"\r\n") or head_end < 0:
        return None
    end = re.compile(b"\r\n" + re.escape(edge) + b"(--|\r\n)").search(body, head_end)
    if end is None or end[1] != b"--":
        return None  # the form is cut off, or another part follows
    head = body[len(edge) : head_end].decode("latin-1")
    name = re.search(r'(?im)^content-disposition:\s*form-data\s*;\s*name="?([\w-]+)"?', head)
    return body[head_end + 4 : end.start()] if name is not None and name[1] in FORM_FIELDS else None
