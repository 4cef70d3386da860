"""The job function that requests name. `worker.batch_worker.BatchWorker` never calls it: it takes jobs in batches."""

from __future__ import annotations

from models.errors import ConfigurationError
from models.requests import JobPayload


def infer_instance(payload: JobPayload) -> None:
    """Refuse to run under a plain RQ worker, which would load every engine anew for each instance.

    The name is the contract between the SCP and the worker. The job stays in the failed registry of whoever ran it,
    the instance stays in the spool, and the sweeper queues it again.

    Raises:
        ConfigurationError: always.
    """
    raise ConfigurationError("start workers with `python -m worker run`, not with `rq worker`")
