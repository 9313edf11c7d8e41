"""How a picture stands in a task: named by an earlier upload's UUID or by a URL, or there in base64.

The provider takes all forms in one field and tells them apart by looking, so both sides of the wire need the
same rules. A picture and a presigned URL are the user's own: no message quotes them.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Literal
from urllib.parse import urlsplit

from trellis_pipeline.errors import FieldFault, RequestInvalid

ImageForm = Literal["uuid", "url", "data_uri", "base64"]
"""The four ways in which `inputs.image` may name or hold a picture."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DATA_URI_HEAD = re.compile(r"data:image/[a-z0-9.+-]{1,40}(;[a-z0-9=.+-]{1,60})?;base64,", re.IGNORECASE)
_BASE64_HEAD = re.compile(r"[A-Za-z0-9+/]{2,}={0,2}")
# Enough to tell what a picture claims to be. All of it is checked when it is decoded.
_HEAD_CHARS = 4096


def image_form(image: str) -> ImageForm:
    """What `inputs.image` is: an earlier upload's UUID, a URL, a data URI or bare base64.

    Only the beginning of an inline picture is looked at. Raises RequestInvalid where it is none of them.
    """
    head = image[:_HEAD_CHARS]
    if _UUID.fullmatch(image):
        return "uuid"
    if head.lower().startswith("data:"):
        if _DATA_URI_HEAD.match(head):
            return "data_uri"
        raise _image_fault("is a data URI, but not one of a picture in base64 (data:image/png;base64,…)")
    if "://" in head:
        if is_http_url(image):
            return "url"
        raise _image_fault("is not a valid http or https URL")
    if _BASE64_HEAD.fullmatch(head):
        return "base64"
    raise _image_fault("must be a UUID, an http or https URL, a data URI or base64")


def inline_image(image: str) -> bytes:
    """The bytes of a picture that stands in the task itself, as a data URI or as bare base64.

    Raises RequestInvalid where the base64 is damaged, and where the picture is only named.
    """
    form = image_form(image)
    if form in ("uuid", "url"):
        raise _image_fault("names a picture that has to be fetched")
    text = image.partition(",")[2] if form == "data_uri" else image
    try:
        picture = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _image_fault("holds damaged base64") from None
    if not picture:
        raise _image_fault("holds no picture")
    return picture


def data_uri(png: bytes) -> str:
    """A PNG as a data URI, about a third longer than the file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def is_http_url(text: str) -> bool:
    """Whether this is an absolute http or https URL that can go into a request as it is."""
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > 16_384:
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


def _image_fault(message: str) -> RequestInvalid:
    return RequestInvalid([FieldFault("inputs.image", message, "invalidImage")])
