"""``load.py <JSON>``: sends many requests at once, in a process of its own; ends when it is killed.

The argument is a list of objects: ``url``, ``count`` of connections, and for a POST ``body``, which is sent as JSON, or
``file`` and its media ``type``. A request is sent again
as soon as it is answered. What it is answered with is read and thrown away.
"""

from __future__ import annotations

import json
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx


def send(what: dict[str, Any]) -> None:
    """Send one of the requests, again and again."""
    options: dict[str, Any] = {"json": what["body"]} if "body" in what else {}
    if "file" in what:
        options = {"content": Path(what["file"]).read_bytes(), "headers": {"Content-Type": what["type"]}}
    with httpx.Client(timeout=600) as http:
        while True:
            with (
                suppress(httpx.TransportError),
                http.stream("POST" if options else "GET", what["url"], **options) as answer,
            ):
                for _ in answer.iter_raw():
                    pass


for each in json.loads(sys.argv[1]):
    for _ in range(each["count"]):
        threading.Thread(target=send, args=(each,)).start()
