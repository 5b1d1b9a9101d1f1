"""What both services' APIs share: the application, its dependencies, problems, jobs, health and metrics."""

from shoal.web.app import create_app
from shoal.web.deps import IdempotencyKey, QueueDep, SettingsDep, StoreDep
from shoal.web.jobs import accepted, submit, with_links

__all__ = [
    "IdempotencyKey",
    "QueueDep",
    "SettingsDep",
    "StoreDep",
    "accepted",
    "create_app",
    "submit",
    "with_links",
]
