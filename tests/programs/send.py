"""``send.py <URL> <file>``: posts the file as JSON, from a process of its own; prints the answer's status."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path
from urllib.parse import urlsplit

address = urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(address.netloc, timeout=120)
body = Path(sys.argv[2]).read_bytes()
connection.request("POST", address.path, body, {"Content-Type": "application/json"})
answer = connection.getresponse()
answer.read()
sys.stdout.write(str(answer.status))
