"""The settings inside a file: where they are, and their text, bounded."""

from __future__ import annotations

import base64
import zlib

from PIL import ExifTags, Image

from cupscale.bounded import MAX_BYTES, parse_object

KEY = "cupscale"
MARK = b"cupscale:"  # begins our text in EXIF
COMPRESSED = b"zlib:"


def find(image: Image.Image) -> str | None:
    """The JSON object inside an opened image, as text that `parse_object` takes; None where there is none that it takes."""
    text: str | bytes | None = image.info.get(KEY)  # a PNG's iTXt
    try:
        if text is None:
            text = _in_exif(image)
        if text is None or len(text) > MAX_BYTES:
            return None
        parse_object(text, "the settings inside")
        return text.decode() if isinstance(text, bytes) else str(text)
    except Exception:  # damaged EXIF and foreign JSON raise nearly anything
        return None


def _in_exif(image: Image.Image) -> bytes | None:
    exif = Image.Image.getexif(image)  # a PNG's own looks behind the pixels too, and decodes them for it
    comment: bytes = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    if image.format == "TIFF":
        comment = str(exif.get(ExifTags.Base.ImageDescription, "")).encode("ascii")
    _, mark, body = comment.rstrip(b"\0").partition(MARK)
    if not mark:
        return None
    if not body.startswith(COMPRESSED):
        return body
    inflate = zlib.decompressobj()
    text = inflate.decompress(base64.b64decode(body.removeprefix(COMPRESSED)), MAX_BYTES + 1)
    return text if inflate.eof else None
