"""Who may reach the services, and what these tell others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from shoal.settings.values import FolderOrFile, Names


class AccessSettings(BaseSettings):
    """Addresses, keys, webhooks, metrics, logs."""

    absent_kinds: Names = Field(
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
    allowed_hosts: Names = Field(
        frozenset(),
        validation_alias="SHOAL_ALLOWED_HOSTS",
        description="Comma-separated host names that an API without keys accepts in the `Host` header.",
    )
    metrics_token_file: FolderOrFile | None = Field(
        None,
        validation_alias="SHOAL_METRICS_TOKEN_FILE",
        description="File with a bearer token that gives access to /metrics only.",
    )
    secure_cookies: bool = Field(
        False,
        validation_alias="SHOAL_SECURE_COOKIES",
        description="Mark the pages' session cookie `Secure` although requests arrive as plain HTTP: set it behind a "
        "proxy that ends TLS.",
    )
    callback_hosts: Names = Field(
        frozenset(),
        validation_alias="SHOAL_CALLBACK_HOSTS",
        description="Comma-separated hosts, each with or without a port, that `callback_url` may name; "
        "`.example.org` stands for all below it. A private address must be listed itself.",
    )
    callback_secret: SecretStr | None = Field(
        None,
        validation_alias="SHOAL_CALLBACK_SECRET",
        description="Secret that signs webhooks, `whsec_` and base64; separate several by spaces.",
    )
    callback_secret_file: FolderOrFile | None = Field(
        None, validation_alias="SHOAL_CALLBACK_SECRET_FILE", description="File with SHOAL_CALLBACK_SECRET."
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
