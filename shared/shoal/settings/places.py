"""Where things are: folders, the queue, the services."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from shoal.settings.values import FolderOrFile, read_secret


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
