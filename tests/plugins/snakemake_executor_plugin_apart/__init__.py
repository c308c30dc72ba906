"""A Snakemake executor whose jobs share no files: each begins in an empty folder of its own.

As with Kubernetes, whose plugin has these very settings: a job is a shell command that fetches the
workflow's sources and the job's inputs from the storage and brings back its outputs.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=True,
    pass_envvar_declarations_to_cmd=True,
    # What Kubernetes installs into each job is in the environment that these jobs have.
    auto_deploy_default_storage_provider=False,
)
# What the workflow puts into its own environment, other machines' jobs do not have.
HANDED = "TRAK_STEPS_"


class Executor(RemoteExecutor):
    """Runs each job in a folder that is removed after it, its local copies of the storage too."""

    def __post_init__(self) -> None:
        self._jobs: dict[str, subprocess.Popen[bytes]] = {}

    def run_job(self, job: JobExecutorInterface) -> None:
        """Start a job."""
        self.logger.info(f"{job.name} asks for {job.resources['mem_mb']} MB")
        folder = tempfile.mkdtemp(prefix="apart-")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(HANDED)}
        process = subprocess.Popen(
            ["/bin/sh", "-c", self.format_job_exec(job)],
            cwd=folder,
            env={**environment, "HOME": folder},
            stdin=subprocess.DEVNULL,
        )
        self._jobs[folder] = process
        self.report_job_submission(SubmittedJobInfo(job, external_jobid=folder))

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report those that have ended."""
        for info in active_jobs:
            code = self._jobs[info.external_jobid].poll()
            if code is None:
                yield info
                continue
            self._end(info.external_jobid)
            if code == 0:
                self.report_job_success(info)
            else:
                self.report_job_error(info)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """End jobs before their time."""
        for info in active_jobs:
            self._jobs[info.external_jobid].terminate()
            self._end(info.external_jobid)

    async def sleep(self) -> None:
        """Between two looks at the jobs."""
        await asyncio.sleep(0.2)

    def _end(self, folder: str) -> None:
        self._jobs.pop(folder).wait()
        shutil.rmtree(Path(folder))
