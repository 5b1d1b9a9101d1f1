"""Settings of every Shoal process, read from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, ByteSize, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIN_FREE_BYTES = 512 * 2**20
"""What must be free on the store's disk for a service to be ready."""


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
    redis_password_file: Path | None = Field(
        None,
        validation_alias="SHOAL_REDIS_PASSWORD_FILE",
        description="File with the server's password, so that it need not stand in `REDIS_URL`.",
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias="REDIS_URL",
        validate_default=True,
        description="Redis 7 or Valkey.",
    )
    extractor_url: str = Field("http://127.0.0.1:8001", validation_alias="SHOAL_EXTRACTOR_URL")
    clusterer_url: str = Field("http://127.0.0.1:8002", validation_alias="SHOAL_CLUSTERER_URL")
    tf_serving_url: str | None = Field(
        None, validation_alias="TF_SERVING_URL", description="host:port of TF Serving's gRPC; grpcs:// means TLS."
    )
    tf_serving_ca: Path | None = Field(
        None, validation_alias="TF_SERVING_CA", description="PEM file of the authority to trust; turns TLS on."
    )
    tf_serving_token: SecretStr | None = Field(
        None, validation_alias="TF_SERVING_TOKEN", description="Bearer token sent with every call."
    )
    tf_serving_deadline_s: float = Field(
        300.0, gt=0, validation_alias="TF_SERVING_DEADLINE_S", description="Longest time for one batch, seconds."
    )
    tf_serving_gone_s: float = Field(
        30.0, gt=0, validation_alias="TF_SERVING_GONE_S", description="A server away for longer fails the job."
    )
    tf_serving_in_flight: int = Field(
        3, ge=1, le=64, validation_alias="TF_SERVING_IN_FLIGHT", description="Requests under way at once."
    )
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
    save_s: float = Field(
        30.0,
        gt=0,
        validation_alias="SHOAL_SAVE_S",
        description="How often an unfinished shard is saved, seconds: what a crash costs.",
    )
    decode_workers: int = Field(
        0, ge=0, le=256, validation_alias="SHOAL_DECODE_WORKERS", description="Decode processes; 0 means one a core."
    )
    follow_links: bool = Field(
        False,
        validation_alias="SHOAL_FOLLOW_LINKS",
        description="Follow symlinks that leave SHOAL_DATA; only where nobody but its owner asks.",
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
    memory_limit: Annotated[ByteSize, Field(ge=2**28)] | None = Field(
        None,
        validation_alias="SHOAL_MEMORY_LIMIT",
        description="Memory of a clustering job, such as 4GiB; a quarter of the machine's by default.",
    )
    offline: bool = Field(False, validation_alias="SHOAL_OFFLINE", description="Never download weights.")
    mirror: Annotated[str, Field(pattern=r"^https?://[^?#\s]+$", max_length=1000)] | None = Field(
        None,
        validation_alias="SHOAL_MIRROR",
        description="Where weights are downloaded in place of their publishers: https://HOST/PATH is asked for as "
        "<mirror>/HOST/PATH.",
    )
    device: str = Field("auto", validation_alias="SHOAL_DEVICE", description="auto, cpu, cuda or cuda:N.")

    # Who may ask, and for how much.
    absent_kinds: Annotated[frozenset[str], NoDecode, BeforeValidator(_comma_separated)] = Field(
        frozenset(),
        validation_alias="SHOAL_ABSENT_KINDS",
        description="Kinds of jobs whose worker is not installed here, comma separated; `shoal up` sets it.",
    )
    host: str = Field("127.0.0.1", validation_alias="SHOAL_HOST", description="Address that an API listens on.")
    published_host: str | None = Field(
        None,
        validation_alias="SHOAL_PUBLISHED_HOST",
        description="Address of the machine under which a container's port is published: what counts in place of host.",
    )
    auth: Literal["auto", "required", "off"] = Field(
        "auto",
        validation_alias="SHOAL_AUTH",
        description="auto: API keys are needed beyond loopback. required: always. off: never.",
    )
    allowed_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(_comma_separated)] = Field(
        frozenset(),
        validation_alias="SHOAL_ALLOWED_HOSTS",
        description="Comma-separated host names under which an API without keys may be asked.",
    )
    metrics_token_file: Path | None = Field(
        None,
        validation_alias="SHOAL_METRICS_TOKEN_FILE",
        description="File with a bearer token that opens /metrics and nothing else.",
    )
    rate_limit: float = Field(
        100.0, gt=0, le=1e6, validation_alias="SHOAL_RATE_LIMIT", description="Requests a second of one API key."
    )
    max_queued: int = Field(
        10_000, ge=1, validation_alias="SHOAL_MAX_QUEUED", description="Jobs of one kind that may wait."
    )
    max_queued_per_key: int = Field(
        1_000, ge=1, validation_alias="SHOAL_MAX_QUEUED_PER_KEY", description="Unfinished jobs of one API key."
    )
    max_body_bytes: int = Field(
        2**20, ge=1024, validation_alias="SHOAL_MAX_BODY_BYTES", description="Of a request that describes a job."
    )
    max_inline_bytes: int = Field(
        64 * 2**20,
        ge=1024,
        validation_alias="SHOAL_MAX_INLINE_BYTES",
        description="Of a request that carries images or embeddings.",
    )
    max_held_bytes: int = Field(
        2**29,
        ge=1024,
        validation_alias="SHOAL_MAX_HELD_BYTES",
        description="Of all bodies at once that arrive or are worked on; small ones are always taken.",
    )
    max_streams: int = Field(
        512, ge=1, validation_alias="SHOAL_MAX_STREAMS", description="Event streams that an API serves at once."
    )
    max_streams_per_client: int = Field(
        32,
        ge=1,
        validation_alias="SHOAL_MAX_STREAMS_PER_CLIENT",
        description="Event streams of one API key at once; where no keys are needed, of one address.",
    )
    max_connections: int = Field(
        2000, ge=1, validation_alias="SHOAL_MAX_CONNECTIONS", description="Connections that an API holds at once."
    )
    max_connections_per_client: int = Field(
        1000,
        ge=0,
        validation_alias="SHOAL_MAX_CONNECTIONS_PER_CLIENT",
        description="Connections of one address; 0 does not bound them, as behind a proxy that bounds them itself.",
    )
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        validation_alias="SHOAL_HEADER_TIMEOUT_S",
        description="Seconds in which a request's headers must arrive.",
    )
    body_timeout_s: float = Field(
        60.0,
        gt=0,
        validation_alias="SHOAL_BODY_TIMEOUT_S",
        description="Seconds in which a request's body must arrive.",
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, validation_alias="SHOAL_METRICS_PORT", description="Of a worker's own metrics; 0: none."
    )
    metrics_host: str = Field("127.0.0.1", validation_alias="SHOAL_METRICS_HOST")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", validation_alias="SHOAL_LOG_LEVEL")

    @field_validator(
        "data", "models", "store", "catalogue", "redis_password_file", "metrics_token_file", "tf_serving_ca"
    )
    @classmethod
    def _from_home(cls, path: Path | None) -> Path | None:
        # A `~` within quotes, an .env file or a unit file has met no shell.
        return None if path is None else path.expanduser()

    @field_validator("redis_url")
    @classmethod
    def _with_password(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        file: Path | None = info.data.get("redis_password_file")
        return url if file is None else SecretStr(_insert_password(url.get_secret_value(), read_secret(file)))


def read_secret(file: Path) -> str:
    """The one line of a secret's file.

    Raises
    ------
    ValueError
        The file cannot be read or is empty; the message names the file, never what is in it.
    """
    try:
        secret = file.read_text().strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {type(error).__name__}") from None
    if not secret:
        raise ValueError(f"{file} is empty")
    return secret


def _insert_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    user = user.partition(":")[0]
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()
