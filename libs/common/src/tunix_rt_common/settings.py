"""Settings of every service, from `TUNIX_RT_*` environment variables.

Three URLs are the only difference between a laptop and a cluster. Resolved once at a process's entry, then passed on.
"""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tunix_rt_common.endpoint import canonical_url

Seconds = PositiveFloat
EndpointUrl = Annotated[str, AfterValidator(canonical_url)]


class Settings(BaseSettings):
    """One frozen value per process; unset URLs point into `home`."""

    model_config = SettingsConfigDict(
        env_prefix="TUNIX_RT_", frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=()
    )

    home: Path = Field(Path("~/.tunix-rt"), description="folder of the embedded world's files")
    database_url: str | None = None
    queue_url: str = "inline://"
    artifacts_url: str | None = None

    lease_s: Seconds = Field(20.0, description="a job whose worker is silent for this long is given to another")
    heartbeat_s: Seconds = Field(1.0, description="between heartbeats; also how fast a cancel is seen")
    sweep_s: Seconds = Field(2.0, description="between looks for expired leases and unheard doorbells")
    doorbell_s: Seconds = Field(60.0, description="a queued job not claimed for this long is announced again")
    stop_grace_s: Seconds = Field(6.0, description="a child told to stop has this long to save a checkpoint and leave")
    progress_timeout_s: Seconds = Field(900.0, description="a child that reports nothing for this long is hung")
    retry_delay_s: Annotated[float, Field(ge=0)] = Field(1.0, description="first back-off; doubles with each attempt")
    max_attempts: PositiveInt = Field(8, description="counted attempts of one job before it is quarantined")
    max_stalled_attempts: PositiveInt = Field(6, description="attempts in a row that may end at one and the same step")
    max_preemptions: PositiveInt = Field(100, description="uncounted attempts of one job before it is quarantined")
    max_waiting_runs: PositiveInt = Field(1000, description="waiting runs of one project before the API says 429")
    unsaved_checkpoints: NonNegativeInt = Field(
        2, description="checkpoints that training keeps on its disk while the store is away, before it pauses"
    )
    keep_checkpoints: PositiveInt = Field(2, description="newest checkpoints of a run that are kept")
    keep_every_steps: PositiveInt | None = Field(None, description="checkpoints at multiples of this are kept too")
    retention_days: PositiveFloat = Field(30.0, description="age at which what nothing refers to is deleted")
    collect_every_s: Seconds = Field(3600.0, description="between two looks for what is past its retention")

    tunix_python: Path | None = Field(None, description="interpreter of the environment that holds google-tunix")
    max_upload_bytes: PositiveInt = Field(64 << 30, description="largest file of a bundle that the API takes")

    queue_secret: SecretStr | None = Field(None, description="key that signs messages; needed with redis://")
    log_format: Literal["text", "json"] = "text"
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="where a worker answers Prometheus and health checks; 0 is nowhere"
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8321
    allowed_hosts: tuple[str, ...] = Field(
        ("127.0.0.1", "localhost", "[::1]"), description="Host headers the API answers to"
    )
    model_roots: tuple[Path, ...] = Field((), description="folders under which a run may name a model directory")
    endpoint_urls: tuple[EndpointUrl, ...] = Field(
        (), description="OpenAI-compatible servers that an evaluation may ask"
    )
    endpoint_api_keys: dict[EndpointUrl, SecretStr] = Field(
        {}, description="by URL, the key that the evaluator shows to such a server"
    )

    @cached_property
    def home_dir(self) -> Path:
        """The home folder, absolute."""
        return self.home.expanduser().absolute()

    @cached_property
    def resolved_database_url(self) -> str:
        """The database's URL; by default a SQLite file in `home`."""
        return self.database_url or f"sqlite:///{self.home_dir}/tunix-rt.db"

    @cached_property
    def resolved_artifacts_url(self) -> str:
        """The artifact store's URL; by default a folder in `home`."""
        return self.artifacts_url or f"file://{self.home_dir}/artifacts"

    @cached_property
    def scratch_dir(self) -> Path:
        """Where children keep files that nobody else reads."""
        return self.home_dir / "scratch"

    @cached_property
    def tokens_dir(self) -> Path:
        """Where splits are kept as token ids, for the next run that reads them."""
        return self.home_dir / "tokens"

    def child_environment(self) -> dict[str, str]:
        """The variables that make a child process resolve to the same settings."""
        optional = {
            "TUNIX_RT_KEEP_EVERY_STEPS": self.keep_every_steps,
            "TUNIX_RT_TUNIX_PYTHON": self.tunix_python,
        }
        return {name: str(value) for name, value in optional.items() if value is not None} | {
            "TUNIX_RT_HOME": str(self.home_dir),
            "TUNIX_RT_DATABASE_URL": self.resolved_database_url,
            "TUNIX_RT_QUEUE_URL": self.queue_url,
            "TUNIX_RT_ARTIFACTS_URL": self.resolved_artifacts_url,
            "TUNIX_RT_KEEP_CHECKPOINTS": str(self.keep_checkpoints),
            "TUNIX_RT_UNSAVED_CHECKPOINTS": str(self.unsaved_checkpoints),
            "TUNIX_RT_LOG_FORMAT": self.log_format,
            "TUNIX_RT_ENDPOINT_URLS": json.dumps(self.endpoint_urls),
            "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(self.home_dir / "compiled")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
