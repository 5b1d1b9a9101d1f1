"""The Python client of both services.

>>> from shoal import Client
>>> client = Client()                                                    # doctest: +SKIP
>>> job = client.wait(client.extract("photos", model="tf_efficientnet_lite0"))  # doctest: +SKIP
>>> client.cluster(job.result["embeddings"], clusters=50)                # doctest: +SKIP
>>> client.embed(["new.jpg"], model="tf_efficientnet_lite0").shape       # doctest: +SKIP
(1, 1280)
"""

from shoal.client.aio import AsyncClient
from shoal.client.images import Image
from shoal.client.jobs import PATIENCE_S
from shoal.client.requests import retry_after_s
from shoal.client.search import Neighbour
from shoal.client.sync import Client
from shoal.client.tables import ContactSheet, Facts, Rows, Table
from shoal.client.vectors import Assignment, Assignments

__all__ = [
    "PATIENCE_S",
    "Assignment",
    "Assignments",
    "AsyncClient",
    "Client",
    "ContactSheet",
    "Facts",
    "Image",
    "Neighbour",
    "Rows",
    "Table",
    "retry_after_s",
]
