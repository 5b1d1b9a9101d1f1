"""Settings of every Shoal process, read from the environment: each field is one variable."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from shoal.settings.access import AccessSettings
from shoal.settings.jobs import JobSettings
from shoal.settings.limits import LimitSettings
from shoal.settings.models import ModelSettings
from shoal.settings.places import PlaceSettings
from shoal.settings.sources import SourceSettings
from shoal.settings.values import read_secret

__all__ = ["MIN_FREE_BYTES", "Settings", "read_secret"]

MIN_FREE_BYTES = 512 * 2**20
"""Free bytes that the store's disk needs for a service to be ready."""


class Settings(LimitSettings, AccessSettings, SourceSettings, ModelSettings, JobSettings, PlaceSettings):
    """Settings of a process; each field is one environment variable."""

    model_config = SettingsConfigDict(populate_by_name=True, frozen=True)
