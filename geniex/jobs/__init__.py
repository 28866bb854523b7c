"""Jobs in this process, in worker processes or on a Ray cluster, and the store of their results."""

from geniex.jobs.run import EXECUTORS, Executor, check_workers, run_jobs, use_job_threads
from geniex.jobs.store import ResultStore, digest
from geniex.jobs.worker import Failure, share_registry

__all__ = [
    "EXECUTORS",
    "Executor",
    "Failure",
    "ResultStore",
    "check_workers",
    "digest",
    "run_jobs",
    "share_registry",
    "use_job_threads",
]
