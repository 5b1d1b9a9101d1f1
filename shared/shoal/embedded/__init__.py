"""The whole of Shoal on one machine: an embedded Valkey, both APIs, one worker of each kind that is installed."""

from shoal.embedded.process import Process
from shoal.embedded.queue import find_queue, idle_jobs, open_queue
from shoal.embedded.runfile import RunningStack, find_stack
from shoal.embedded.stack import Stack

__all__ = [
    "Process",
    "RunningStack",
    "Stack",
    "find_queue",
    "find_stack",
    "idle_jobs",
    "open_queue",
]
