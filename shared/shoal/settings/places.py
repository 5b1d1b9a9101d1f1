"""Where things are: folders, the queue, the services."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, ByteSize, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from shoal.settings.values import FolderOrFile, read_secret


def _nothing(value: str | None) -> str | None:
    """Empty for none, as compose files leave variables."""
    return value or None


def _bucket(value: str | None) -> str | None:
    """The URL of a prefix of a bucket; empty for none.

    Raises
    ------
    ValueError
        It is none.
    """
    if value and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#\s]*)?", value):
        raise ValueError(f"{value!r} is not s3://BUCKET/PREFIX, such as s3://embeddings/shoal")
    return value.rstrip("/") if value else None


class PlaceSettings(BaseSettings):
    """Folders, the queue's server, the services' addresses."""

    data: FolderOrFile = Field(
        Path("data"), validation_alias="SHOAL_DATA", description="Data root: the folder of image folders, read only."
    )
    models: FolderOrFile = Field(
        Path("models"), validation_alias="SHOAL_MODELS", description="Models root: the folder of checkpoint files."
    )
    store: FolderOrFile = Field(
        Path("store"), validation_alias="SHOAL_STORE", description="Folder of embeddings and clusterings."
    )
    embeddings_store: Annotated[str | None, BeforeValidator(_bucket)] = Field(
        None,
        validation_alias="SHOAL_EMBEDDINGS_STORE",
        description="s3://BUCKET/PREFIX that embeddings are kept in; if unset, they are in SHOAL_STORE.",
    )
    embeddings_cache: Annotated[FolderOrFile | None, BeforeValidator(_nothing)] = Field(
        None,
        validation_alias="SHOAL_EMBEDDINGS_CACHE",
        description="Folder of this machine for copies of embeddings of SHOAL_EMBEDDINGS_STORE; by default "
        "`shoal/embeddings` below `XDG_CACHE_HOME` or `~/.cache`.",
    )
    embeddings_cache_size: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(50 * 2**30),
        validation_alias="SHOAL_EMBEDDINGS_CACHE_SIZE",
        description="Maximum size of these copies; those used least recently are removed. The last one stays, however "
        "large it is.",
    )
    catalogue: FolderOrFile | None = Field(
        None, validation_alias="SHOAL_CATALOGUE", description="TOML file of models, merged over the built-in catalogue."
    )
    redis_password_file: FolderOrFile | None = Field(
        None,
        validation_alias="SHOAL_REDIS_PASSWORD_FILE",
        description="File with the password of the Redis server, to keep it out of `REDIS_URL`.",
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias="REDIS_URL",
        validate_default=True,
        description="URL of Redis 7 or Valkey.",
    )
    extractor_url: str = Field(
        "http://127.0.0.1:8001", validation_alias="SHOAL_EXTRACTOR_URL", description="URL of the extractor's API."
    )
    clusterer_url: str = Field(
        "http://127.0.0.1:8002", validation_alias="SHOAL_CLUSTERER_URL", description="URL of the clusterer's API."
    )
    api_key: SecretStr | None = Field(
        None, validation_alias="SHOAL_API_KEY", description="API key that the client sends."
    )

    @field_validator("redis_url")
    @classmethod
    def _with_password(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        file: Path | None = info.data.get("redis_password_file")
        return url if file is None else SecretStr(_insert_password(url.get_secret_value(), read_secret(file)))


def _insert_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    user = user.partition(":")[0]
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()
