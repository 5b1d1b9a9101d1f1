"""Models: their weights and devices, TensorFlow Serving, the model hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import ByteSize, Field, SecretStr
from pydantic_settings import BaseSettings

from shoal.settings.values import FolderOrFile, Names


class ModelSettings(BaseSettings):
    """Weights, devices, TensorFlow Serving, model hosts."""

    handlers: Names = Field(
        frozenset(),
        validation_alias="SHOAL_HANDLERS",
        description="Comma-separated handlers that models may use, each as module:Class.",
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
    heads_device: str = Field(
        "auto",
        validation_alias="SHOAL_HEADS_DEVICE",
        description="Device on which the clusterer trains heads (`method`: `turtle`, `temi`): auto, cpu, cuda or "
        "cuda:N.",
    )
    tf_serving_url: str | None = Field(
        None,
        validation_alias="TF_SERVING_URL",
        description="host:port of TF Serving's gRPC API; grpcs://host:port uses TLS. If unset, jobs run TensorFlow.",
    )
    tf_serving_ca: FolderOrFile | None = Field(
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
    online: FolderOrFile = Field(
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
    online_preload: Names = Field(
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
