"""Settings of every Shoal process, read from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, ByteSize, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIN_FREE_BYTES = 512 * 2**20
"""Free bytes that the store's disk needs for a service to be ready."""


def _comma_separated(value: Any) -> Any:
    """The text of a variable as the set of its parts; anything else unchanged."""
    return frozenset(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Settings(BaseSettings):
    """Settings of a process; each field is one environment variable."""

    model_config = SettingsConfigDict(populate_by_name=True, frozen=True)

    data: Path = Field(
        Path("data"), validation_alias="SHOAL_DATA", description="Data root: the folder of image folders, read only."
    )
    models: Path = Field(
        Path("models"), validation_alias="SHOAL_MODELS", description="Models root: the folder of checkpoint files."
    )
    store: Path = Field(
        Path("store"), validation_alias="SHOAL_STORE", description="Folder of embeddings and clusterings."
    )
    redis_password_file: Path | None = Field(
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
    tf_serving_url: str | None = Field(
        None,
        validation_alias="TF_SERVING_URL",
        description="host:port of TF Serving's gRPC API; grpcs://host:port uses TLS. If unset, jobs run TensorFlow.",
    )
    tf_serving_ca: Path | None = Field(
        None,
        validation_alias="TF_SERVING_CA",
        description="PEM file of the certificate authority to trust; enables TLS.",
    )
    tf_serving_token: SecretStr | None = Field(
        None, validation_alias="TF_SERVING_TOKEN", description="Bearer token sent to TF Serving with every call."
    )
    tf_serving_deadline_s: float = Field(
        300.0, gt=0, validation_alias="TF_SERVING_DEADLINE_S", description="Timeout of one batch in seconds."
    )
    tf_serving_gone_s: float = Field(
        30.0,
        gt=0,
        validation_alias="TF_SERVING_GONE_S",
        description="If TF Serving is unreachable for longer than this many seconds, the job fails.",
    )
    tf_serving_in_flight: int = Field(
        3,
        ge=1,
        le=64,
        validation_alias="TF_SERVING_IN_FLIGHT",
        description="Maximum number of concurrent requests to TF Serving.",
    )
    api_key: SecretStr | None = Field(
        None, validation_alias="SHOAL_API_KEY", description="API key that the client sends."
    )

    lease_s: float = Field(
        30.0, gt=0, validation_alias="SHOAL_LEASE_S", description="Lease of a claimed job in seconds."
    )
    beat_s: float = Field(
        5.0, gt=0, validation_alias="SHOAL_BEAT_S", description="Seconds between two heartbeats of a worker."
    )
    child_silence_s: float = Field(
        1800.0,
        gt=0,
        validation_alias="SHOAL_CHILD_SILENCE_S",
        description="If a job's process sends nothing for this many seconds, it is killed.",
    )
    kill_grace_s: float = Field(
        5.0,
        gt=0,
        validation_alias="SHOAL_KILL_GRACE_S",
        description="Seconds between SIGTERM and SIGKILL when a job is cancelled.",
    )
    drain_s: float = Field(
        8.0,
        gt=0,
        validation_alias="SHOAL_DRAIN_S",
        description="Seconds that a stopping worker waits for its job to stop.",
    )
    ahead: bool = Field(
        True,
        validation_alias="SHOAL_AHEAD",
        description="Start the process of a worker's next job while the worker waits for it.",
    )
    save_s: float = Field(
        30.0,
        gt=0,
        validation_alias="SHOAL_SAVE_S",
        description="Seconds between two saves of an unfinished shard: the most work that a crash loses.",
    )
    decode_workers: int = Field(
        0,
        ge=0,
        le=256,
        validation_alias="SHOAL_DECODE_WORKERS",
        description="Number of decode processes; 0 means one per core.",
    )
    job_nice: int = Field(
        10,
        ge=0,
        le=19,
        validation_alias="SHOAL_JOB_NICE",
        description="Niceness of a job's processes; 0 gives them the priority of all others.",
    )
    follow_links: bool = Field(
        False,
        validation_alias="SHOAL_FOLLOW_LINKS",
        description="Follow symlinks that lead out of SHOAL_DATA. Safe only if every client may read all files.",
    )
    max_image_pixels: int = Field(
        128_000_000,
        gt=0,
        validation_alias="SHOAL_MAX_IMAGE_PIXELS",
        description="Maximum number of pixels of an image; larger images are rejected.",
    )
    catalogue: Path | None = Field(
        None, validation_alias="SHOAL_CATALOGUE", description="TOML file of models, merged over the built-in catalogue."
    )
    handlers: Annotated[frozenset[str], NoDecode, BeforeValidator(_comma_separated)] = Field(
        frozenset(),
        validation_alias="SHOAL_HANDLERS",
        description="Comma-separated handlers that models may use, each as module:Class.",
    )
    memory_limit: Annotated[ByteSize, Field(ge=2**28)] | None = Field(
        None,
        validation_alias="SHOAL_MEMORY_LIMIT",
        description="Maximum memory of a clustering job, such as 4GiB; by default a quarter of the machine's.",
    )
    offline: bool = Field(False, validation_alias="SHOAL_OFFLINE", description="Never download weights.")
    mirror: Annotated[str, Field(pattern=r"^https?://[^?#\s]+$", max_length=1000)] | None = Field(
        None,
        validation_alias="SHOAL_MIRROR",
        description="Base URL of a mirror for weights: https://HOST/PATH is requested as MIRROR/HOST/PATH.",
    )
    device: str = Field(
        "auto", validation_alias="SHOAL_DEVICE", description="Device of PyTorch: auto, cpu, cuda or cuda:N."
    )

    # New images, answered by the model host.
    online: Path = Field(
        Path("online"),
        validation_alias="SHOAL_ONLINE",
        description="Folder of the model hosts' sockets; only this user may enter it.",
    )
    online_memory: Annotated[ByteSize, Field(ge=2**20)] | None = Field(
        None,
        validation_alias="SHOAL_ONLINE_MEMORY",
        description="Maximum memory of the models that a host keeps loaded, such as 4GiB; by default a quarter of the "
        "machine's.",
    )
    online_preload: Annotated[frozenset[str], NoDecode, BeforeValidator(_comma_separated)] = Field(
        frozenset(),
        validation_alias="SHOAL_ONLINE_PRELOAD",
        description="Comma-separated models that a host loads when it starts.",
    )
    online_max_batch: int = Field(
        32, ge=1, le=4096, validation_alias="SHOAL_ONLINE_MAX_BATCH", description="Maximum number of images of a batch."
    )
    online_max_wait_ms: float = Field(
        2.0,
        ge=0,
        le=1000,
        validation_alias="SHOAL_ONLINE_MAX_WAIT_MS",
        description="Milliseconds that a batch waits for images that are still being decoded.",
    )
    online_max_queue: int = Field(
        512,
        ge=1,
        le=1_000_000,
        validation_alias="SHOAL_ONLINE_MAX_QUEUE",
        description="Maximum number of images that wait for a model; more are refused.",
    )

    # Access and limits.
    absent_kinds: Annotated[frozenset[str], NoDecode, BeforeValidator(_comma_separated)] = Field(
        frozenset(),
        validation_alias="SHOAL_ABSENT_KINDS",
        description="Comma-separated kinds of jobs whose worker is not installed here; set by `shoal up`.",
    )
    host: str = Field("127.0.0.1", validation_alias="SHOAL_HOST", description="Address that an API listens on.")
    published_host: str | None = Field(
        None,
        validation_alias="SHOAL_PUBLISHED_HOST",
        description="Host address at which a container's port is published. If set, it decides instead of SHOAL_HOST "
        "whether API keys are needed.",
    )
    auth: Literal["auto", "required", "off"] = Field(
        "auto",
        validation_alias="SHOAL_AUTH",
        description="When API keys are needed. auto: unless the API listens on loopback. required: always. off: never.",
    )
    allowed_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(_comma_separated)] = Field(
        frozenset(),
        validation_alias="SHOAL_ALLOWED_HOSTS",
        description="Comma-separated host names that an API without keys accepts in the `Host` header.",
    )
    metrics_token_file: Path | None = Field(
        None,
        validation_alias="SHOAL_METRICS_TOKEN_FILE",
        description="File with a bearer token that gives access to /metrics only.",
    )
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
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        validation_alias="SHOAL_METRICS_PORT",
        description="Port of a worker's or a model host's metrics; 0 for none.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        validation_alias="SHOAL_METRICS_HOST",
        description="Address of a worker's or a model host's metrics.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias="SHOAL_LOG_LEVEL", description="Lowest level of log lines."
    )

    @field_validator(
        "data", "models", "store", "catalogue", "redis_password_file", "metrics_token_file", "tf_serving_ca", "online"
    )
    @classmethod
    def _from_home(cls, path: Path | None) -> Path | None:
        # No shell expands `~` in quotes, in an .env file or in a systemd unit.
        return None if path is None else path.expanduser()

    @field_validator("redis_url")
    @classmethod
    def _with_password(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        file: Path | None = info.data.get("redis_password_file")
        return url if file is None else SecretStr(_insert_password(url.get_secret_value(), read_secret(file)))


def read_secret(file: Path) -> str:
    """The secret in a file of one line.

    Raises
    ------
    ValueError
        The file cannot be read or is empty; the message names the file, never its content.
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
