"""Settings of every Shoal process, read from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _comma_separated(value: Any) -> Any:
    """A variable's text as the set of its parts; anything else unchanged."""
    return frozenset(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Settings(BaseSettings):
    """What a process needs to know about its surroundings; each field is one environment variable."""

    model_config = SettingsConfigDict(populate_by_name=True, frozen=True)

    data: Path = Field(Path("data"), validation_alias="SHOAL_DATA", description="Root of the image folders, read only.")
    models: Path = Field(Path("models"), validation_alias="SHOAL_MODELS", description="Folder of checkpoint files.")
    store: Path = Field(
        Path("store"), validation_alias="SHOAL_STORE", description="Root of embeddings and clusterings."
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), validation_alias="REDIS_URL", description="Redis 7 or Valkey."
    )
    extractor_url: str = Field("http://127.0.0.1:8001", validation_alias="SHOAL_EXTRACTOR_URL")
    clusterer_url: str = Field("http://127.0.0.1:8002", validation_alias="SHOAL_CLUSTERER_URL")
    tf_serving_url: str | None = Field(None, validation_alias="TF_SERVING_URL", description="host:port of gRPC.")
    api_key: SecretStr | None = Field(None, validation_alias="SHOAL_API_KEY", description="Bearer token of the client.")

    lease_s: float = Field(30.0, gt=0, validation_alias="SHOAL_LEASE_S", description="Lease of a claimed job, seconds.")
    beat_s: float = Field(5.0, gt=0, validation_alias="SHOAL_BEAT_S", description="Period of the heartbeat, seconds.")
    child_silence_s: float = Field(
        1800.0, gt=0, validation_alias="SHOAL_CHILD_SILENCE_S", description="A child silent for longer is killed."
    )
    kill_grace_s: float = Field(
        5.0, gt=0, validation_alias="SHOAL_KILL_GRACE_S", description="Seconds between SIGTERM and SIGKILL on cancel."
    )
    drain_s: float = Field(
        8.0, gt=0, validation_alias="SHOAL_DRAIN_S", description="Seconds a stopping worker gives its job to stop."
    )
    decode_workers: int = Field(
        0, ge=0, le=256, validation_alias="SHOAL_DECODE_WORKERS", description="Decode processes; 0 means one a core."
    )
    max_image_pixels: int = Field(
        128_000_000, gt=0, validation_alias="SHOAL_MAX_IMAGE_PIXELS", description="Larger images are refused."
    )
    catalogue: Path | None = Field(
        None, validation_alias="SHOAL_CATALOGUE", description="TOML file of models, merged over the built-in ones."
    )
    handlers: Annotated[frozenset[str], NoDecode, BeforeValidator(_comma_separated)] = Field(
        frozenset(),
        validation_alias="SHOAL_HANDLERS",
        description="Handlers that may run, as module:Class, comma separated.",
    )
    offline: bool = Field(False, validation_alias="SHOAL_OFFLINE", description="Never download weights.")
    device: str = Field("auto", validation_alias="SHOAL_DEVICE", description="auto, cpu, cuda or cuda:N.")
