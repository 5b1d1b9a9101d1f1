"""What images may be read from, and fetched from."""

from __future__ import annotations

from typing import Annotated

from pydantic import ByteSize, Field
from pydantic_settings import BaseSettings

from shoal.settings.values import Names


class SourceSettings(BaseSettings):
    """Which images may be read, and fetched from other machines."""

    follow_links: bool = Field(
        False,
        validation_alias="SHOAL_FOLLOW_LINKS",
        description="Follow symlinks that lead out of SHOAL_DATA. Safe only if every client may read all files.",
    )
    sources_allow: Names = Field(
        frozenset(),
        validation_alias="SHOAL_SOURCES_ALLOW",
        description="Comma-separated hosts that images may be fetched from, such as images.example.org, .example.org "
        "or *, and buckets, s3://BUCKET; http://HOST allows http, too, and 10.0.0.0/8 private addresses of these "
        "hosts. If empty, none.",
    )
    sources_connections: int = Field(
        32,
        ge=1,
        le=1024,
        validation_alias="SHOAL_SOURCES_CONNECTIONS",
        description="Maximum number of images that a job fetches at once.",
    )
    sources_connections_per_host: int = Field(
        8,
        ge=1,
        le=1024,
        validation_alias="SHOAL_SOURCES_CONNECTIONS_PER_HOST",
        description="Maximum number of images that a job fetches at once from one host.",
    )
    sources_max_bytes: Annotated[ByteSize, Field(ge=1024, le=2**30)] = Field(
        ByteSize(32 * 2**20),
        validation_alias="SHOAL_SOURCES_MAX_BYTES",
        description="Maximum size of an image that is fetched.",
    )
    sources_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        validation_alias="SHOAL_SOURCES_TIMEOUT_S",
        description="Seconds within which an image must arrive.",
    )
    sources_gone_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        validation_alias="SHOAL_SOURCES_GONE_S",
        description="If a host answers nothing for this many seconds, its images become rows of errors.",
    )
