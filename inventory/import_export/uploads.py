"""The uploaded file of a request, copied to disk before the import begins."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from flask import current_app, request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from inventory import errors
from inventory.import_export.temporary import temporary_file
from inventory.web.parsing import refuse_encodings, refuse_other_charset
from inventory.web.problems import validation_failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from werkzeug.sansio.multipart import Event

BLOCK = 64 * 1024
# Bytes kept in memory until the end of a part's headers, or of the boundary before them, is found.
MAX_PIECE = 2 * BLOCK
UNREADABLE = "The form data is incomplete, or its boundary differs from the Content-Type header."


@contextmanager
def uploaded_file() -> Iterator[IO[bytes]]:
    """The request's file. Raises StorageFull if the temporary folder is full, also within the block."""
    request.max_content_length = current_app.config["INVENTORY_MAX_IMPORT_BYTES"]
    refuse_encodings(request)
    if request.mimetype not in {"text/csv", "multipart/form-data"}:
        raise errors.UnsupportedMediaType("Send the file as text/csv, or as the field 'file' of multipart/form-data.")
    with temporary_file(current_app.config["INVENTORY_TEMP_DIR"]) as copy:
        if request.mimetype == "text/csv":
            copy_body(copy)
        else:
            copy_part(copy)
        copy.seek(0)
        yield copy


def copy_body(copy: IO[bytes]) -> None:
    shutil.copyfileobj(request.stream, copy)
    # A broken connection looks like the end of the file.
    if request.content_length not in {None, copy.tell()}:
        raise errors.BadRequest("Nothing was imported: the body is shorter than its Content-Length.")


def copy_part(copy: IO[bytes]) -> None:
    """Copy the part named ``file``.

    Other parts are rejected: if a part ``dry_run`` were ignored, the import would be real. Only the part's name counts,
    since many clients send no file name.
    """
    names: list[str] = []
    for event in form_events():
        if isinstance(event, Field | File):
            names.append(event.name or "")
            if len(names) > current_app.config["MAX_FORM_PARTS"]:
                raise RequestEntityTooLarge
            if event.name == "file":
                refuse_other_charset(parse_options_header(event.headers.get("Content-Type"))[1])
        elif isinstance(event, Data) and names == ["file"]:
            copy.write(event.data)
    if names != ["file"]:
        raise wrong_parts(names)


def form_events() -> Iterator[Event]:
    """The form's parts and their data, block by block. Raises ValidationFailed if the form is incomplete."""
    decoder = MultipartDecoder(request.mimetype_params.get("boundary", "").encode(), max_form_memory_size=MAX_PIECE)
    while True:
        block = request.stream.read(BLOCK)
        try:
            decoder.receive_data(block or None)
            while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
                yield event
        except (ValueError, RequestEntityTooLarge):
            raise validation_failed({"form": {"file": [UNREADABLE]}}) from None
        if isinstance(event, Epilogue):
            return


def wrong_parts(names: list[str]) -> errors.ValidationFailed:
    others = [name for name in names if name != "file"]
    problems = {name or "(unnamed)": ["Unknown field."] for name in others}
    if names.count("file") != 1:
        problems["file"] = ["Duplicate field." if "file" in names else "Missing data for required field."]
    return validation_failed({"form": problems})
