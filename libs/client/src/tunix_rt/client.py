"""The typed SDK of a Tunix RT server.

with Client("http://127.0.0.1:8321") as client:
    run = client.runs.create(RunSpec(dataset="sums", base_model="tiny"))
    for update in client.runs.follow(run.run_id):
        print(update.run.state, update.run.step)
"""

from types import TracebackType

import httpx2

from tunix_rt.connection import Connection
from tunix_rt.resources.datasets import Datasets
from tunix_rt.resources.evaluations import Evaluations
from tunix_rt.resources.imports import Imports
from tunix_rt.resources.models import Models
from tunix_rt.resources.plans import Plans
from tunix_rt.resources.runs import Runs
from tunix_rt.resources.traces import Traces


class Client:
    """One server, by noun. Not for use by several threads at once.

    All calls raise `ApiError` when the server refuses, `ServerAway` when it does not answer, and `UnexpectedAnswer`
    when it is not a Tunix RT of this version.
    """

    def __init__(self, base_url: str, *, transport: httpx2.BaseTransport | None = None) -> None:
        self._connection = Connection(base_url, transport=transport)
        self.traces = Traces(self._connection)
        self.datasets = Datasets(self._connection)
        self.runs = Runs(self._connection)
        self.plans = Plans(self._connection)
        self.imports = Imports(self._connection)
        self.evaluations = Evaluations(self._connection)
        self.models = Models(self._connection)

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return self._connection.base_url

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()
