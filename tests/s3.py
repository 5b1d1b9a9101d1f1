"""A local S3 server for tests, in this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
    "NO_PROXY": "127.0.0.1",
}


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Serve until the block ends; the environment in which AWS's tools find the server."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    finally:
        server.stop()


def client_of(environment: dict[str, str]) -> Any:
    """A client of the server, to look and to damage."""
    with patch.dict(os.environ, environment):
        import boto3

        return boto3.session.Session().client(
            "s3", region_name="us-east-1", endpoint_url=environment["AWS_ENDPOINT_URL"]
        )


def empty_bucket(client: Any, name: str) -> None:
    """Make a bucket, or delete all that is in it."""
    if name in {each["Name"] for each in client.list_buckets()["Buckets"]}:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            if there := [{"Key": each["Key"]} for each in page.get("Contents", ())]:
                client.delete_objects(Bucket=name, Delete={"Objects": there})
    else:
        client.create_bucket(Bucket=name)
