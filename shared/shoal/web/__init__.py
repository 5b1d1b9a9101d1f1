"""What both services' APIs share: the application, its dependencies, problems, jobs, health and metrics."""

from shoal.web.app import create_app, serve
from shoal.web.jobs import IdempotencyKey, SubmitterDep, accepted
from shoal.web.route import DeadlineDep, QueueDep, SettingsDep, StoreDep

__all__ = [
    "DeadlineDep",
    "IdempotencyKey",
    "QueueDep",
    "SettingsDep",
    "StoreDep",
    "SubmitterDep",
    "accepted",
    "create_app",
    "serve",
]
