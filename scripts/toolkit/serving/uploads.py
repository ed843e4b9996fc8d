"""The files of a request: their kind by their first bytes, and where they are stored while it is answered."""

from __future__ import annotations

from pathlib import Path

import fastapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from toolkit.serving.request_limits import TooLarge, TooSlow

# What a client says about its file is not used.
SIGNATURES = (
    (b"%PDF-", ".pdf"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
)
PDF_START = 1024  # bytes in which a PDF's signature may stand (ISO 32000, appendix H)
MOST_FIELDS = 16  # of a form, files apart


async def stored_uploads(request: fastapi.Request, folder: Path, most_files: int) -> list[Path]:
    """Store the request's files in `folder`, named by number and kind.

    They are the body itself, or a form's files in page order.

    Raises fastapi.HTTPException for what is no document (400, 415), OSError where there is no room.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return [_stored(folder, 1, await request.body())]
    try:
        form = await request.form(max_files=most_files, max_fields=MOST_FIELDS)
    except HTTPException as error:
        raise fastapi.HTTPException(400, f"the form cannot be read ({error.detail})") from None
    except (TooLarge, TooSlow, ClientDisconnect, OSError):
        raise
    except Exception:
        raise fastapi.HTTPException(400, "the form cannot be read") from None
    try:
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        if not files:
            raise fastapi.HTTPException(400, "the form has no file; send a PDF or page images")
        return [_stored(folder, number, await file.read()) for number, file in enumerate(files, 1)]
    finally:
        await form.close()


def _stored(folder: Path, number: int, data: bytes) -> Path:
    if not data:
        raise fastapi.HTTPException(400, "the body is empty")
    suffix = suffix_of(data)
    if not suffix:
        raise fastapi.HTTPException(415, "a PDF, PNG, JPEG or TIFF is needed")
    path = folder / f"{number:04d}{suffix}"
    path.write_bytes(data)
    return path


def suffix_of(data: bytes) -> str:
    """The file suffix that fits these bytes; empty if they are no document."""
    for signature, suffix in SIGNATURES:
        if data.startswith(signature):
            return suffix
    return ".pdf" if b"%PDF-" in data[:PDF_START] else ""
