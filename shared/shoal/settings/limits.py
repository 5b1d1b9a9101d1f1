"""How much clients may ask of the APIs."""

from __future__ import annotations

from typing import Annotated

from pydantic import ByteSize, Field
from pydantic_settings import BaseSettings


class LimitSettings(BaseSettings):
    """How much clients may ask of the APIs."""

    rate_limit: float = Field(
        100.0, gt=0, le=1e6, validation_alias="SHOAL_RATE_LIMIT", description="Requests per second of one API key."
    )
    max_queued: int = Field(
        10_000, ge=1, validation_alias="SHOAL_MAX_QUEUED", description="Maximum number of queued jobs of one kind."
    )
    max_queued_per_key: int = Field(
        1_000,
        ge=1,
        validation_alias="SHOAL_MAX_QUEUED_PER_KEY",
        description="Maximum number of unfinished jobs of one API key.",
    )
    max_body_bytes: int = Field(
        2**20, ge=1024, validation_alias="SHOAL_MAX_BODY_BYTES", description="Maximum size of a request body."
    )
    max_inline_bytes: int = Field(
        64 * 2**20,
        ge=1024,
        validation_alias="SHOAL_MAX_INLINE_BYTES",
        description="Maximum size of a request body with images or embeddings.",
    )
    assign_cache: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(256 * 2**20),
        validation_alias="SHOAL_ASSIGN_CACHE",
        description="Memory for the last used clusterings, which `/assign` keeps loaded. The last one stays loaded, "
        "however large it is.",
    )
    search_cache: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(2**30),
        validation_alias="SHOAL_SEARCH_CACHE",
        description="Memory for the last searched embeddings, which `/search` keeps loaded: a byte a value. Of larger "
        "ones it reads all vectors at each search.",
    )
    pages_cache: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(256 * 2**20),
        validation_alias="SHOAL_PAGES_CACHE",
        description="Memory for the groups of the clusterings, and again for the paths, labels and thumbnails of the "
        "embeddings, that people looked at last. The last of each stays, however large it is.",
    )
    max_held_bytes: int = Field(
        2**29,
        ge=1024,
        validation_alias="SHOAL_MAX_HELD_BYTES",
        description="Maximum size of all request bodies held at once; small ones are always accepted.",
    )
    max_part_bytes: Annotated[ByteSize, Field(ge=1024)] = Field(
        ByteSize(256 * 2**20),
        validation_alias="SHOAL_MAX_PART_BYTES",
        description="Maximum size of the body of `POST /uploads` and of one part of an upload.",
    )
    upload_quota: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(50 * 2**30),
        validation_alias="SHOAL_UPLOAD_QUOTA",
        description="Maximum size of all uploads of one API key, unpacked; 0 allows no uploads.",
    )
    upload_files: int = Field(
        2_000_000,
        ge=0,
        validation_alias="SHOAL_UPLOAD_FILES",
        description="Maximum number of files in all uploads of one API key.",
    )
    upload_days: float = Field(
        7.0,
        gt=0,
        validation_alias="SHOAL_UPLOAD_DAYS",
        description="Days after its last use from which `shoal gc` removes an upload that no unfinished job names.",
    )
    max_streams: int = Field(
        512, ge=1, validation_alias="SHOAL_MAX_STREAMS", description="Maximum number of open event streams."
    )
    max_streams_per_client: int = Field(
        32,
        ge=1,
        validation_alias="SHOAL_MAX_STREAMS_PER_CLIENT",
        description="Maximum number of open event streams of one API key, or of one address without keys.",
    )
    max_connections: int = Field(
        2000, ge=1, validation_alias="SHOAL_MAX_CONNECTIONS", description="Maximum number of open connections."
    )
    max_connections_per_client: int = Field(
        1000,
        ge=0,
        validation_alias="SHOAL_MAX_CONNECTIONS_PER_CLIENT",
        description="Maximum number of open connections of one address; 0 for no maximum.",
    )
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        validation_alias="SHOAL_HEADER_TIMEOUT_S",
        description="Seconds within which a request's headers must arrive.",
    )
    body_timeout_s: float = Field(
        60.0,
        gt=0,
        validation_alias="SHOAL_BODY_TIMEOUT_S",
        description="Seconds within which a request's body must arrive.",
    )
