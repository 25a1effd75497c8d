"""All settings, in one place: environment variables `CAMSERVE_<NAME>`, read once and passed in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from camserve.environment import PREFIX, is_setting
from camserve.errors import near_names
from camserve.expressions import MAX_NODES
from camserve.vocabulary import MAX_TARGETS

__all__ = ["Settings"]

# as a browser spells it: RFC 6454, 6.2
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
_LISTS = (
    *("cors_origins", "devices", "factories"),
    *("fetch_hosts", "webhook_hosts", "webhook_secret"),
)
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


_COSTLY_SHARE = 0.8


class Settings(BaseSettings):
    """Immutable; units are in the names; a misspelt variable is an error."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    # where
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port of the API.")
    cors_origins: CommaSeparated = Field(
        (),
        description="Web pages that may call from a browser: `https://app.example.com`, or `*`.",
    )
    redis_url: str | None = Field(
        None, description="Redis or Valkey >= 6.2; without it `serve` starts a private server."
    )
    api_keys_file: Path | None = Field(
        None,
        description="API keys, made by `camserve keys add`; without it, calls need none.",
    )
    allow_anonymous: bool = Field(
        False,  # noqa: FBT003 - the default of a field
        description="Listen on a public address although there are no API keys.",
    )
    state_dir: Path = Field(
        Path(".camserve"),
        description="Folder of the private server (socket, data, lock), and of what workers note "
        "of loads.",
    )
    models_dir: Path = Field(Path("models"), description="The model repository.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe message that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Logs for people, or as JSON, one object a line. See operating.md."
    )

    # what a request may hold
    max_body_mb: Annotated[float, Field(gt=0)] = Field(20, description="Largest request body.")
    max_megapixels: Annotated[float, Field(gt=0)] = Field(50, description="Largest picture.")
    max_inputs: Count = Field(32, description="Inputs a request.")
    max_targets: Annotated[int, Field(ge=1, le=MAX_TARGETS)] = Field(
        16, description="Targets a request; a listed class counts as one."
    )
    max_expression_nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] = Field(
        MAX_NODES, description="Numbers, names, operators and indices of an expression."
    )
    max_forward_passes: Count = Field(
        4096,
        description="Forward passes of single inputs a request may cost, by `scorecam`, "
        "`ablationcam` or `evaluate`.",
    )
    max_output_megapixels: Annotated[float, Field(gt=0)] = Field(
        16,
        description="Largest map or picture that is answered, and largest output of a prediction.",
    )
    max_json_megapixels: Annotated[float, Field(gt=0)] = Field(
        1,
        description="Most numbers of maps, or of outputs, that a JSON answer lists; `.npy` takes "
        "more.",
    )
    picture_px: Annotated[int, Field(ge=64, le=8192)] = Field(
        1024, description="Long side of the copy of an upload that overlays are drawn on."
    )
    picture_threads: Count = Field(
        4,
        description="Pictures and maps that an API process decodes or draws at once; each may take "
        "a gigabyte.",
    )

    # what camserve may call
    fetch_hosts: CommaSeparated = Field(
        (),
        description="Hosts that inputs may be fetched from: `images.example.com`, "
        "`*.example.com`, `*` (any public one), `http://10.0.0.0/8`; none: a URL is refused. See "
        "urls.md.",
    )
    fetch_timeout_s: Seconds = Field(10, description="Longest fetch of one URL, with redirects.")
    fetch_connections: Count = Field(16, description="URLs that an API process fetches at once.")
    webhook_hosts: CommaSeparated = Field(
        (),
        description="Hosts that webhooks may go to, written as those of `CAMSERVE_FETCH_HOSTS`; "
        "none: a webhook is refused. See webhooks.md.",
    )
    webhook_secret: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="What webhooks are signed with: `whsec_` and base64; several while it is "
        "changed.",
    )
    webhook_attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        8, description="Attempts of a webhook before it is given up."
    )
    webhook_retry_s: Seconds = Field(
        5, description="Wait before the second attempt; then four times as long each."
    )
    webhook_timeout_s: Seconds = Field(15, description="How long a receiver may take to answer.")
    webhook_connections: Count = Field(
        16, description="Webhooks that an API process sends at once."
    )

    # how long
    sync_wait_s: Seconds = Field(30, description="How long a call waits before it becomes a 202.")
    deadline_s: Seconds = Field(
        60,
        description="Deadline of a job that names none; of one of many passes so much later as it "
        "may compute, 0.8 of `CAMSERVE_JOB_TIME_LIMIT_S`.",
    )
    max_deadline_s: Seconds = Field(3600, description="Longest deadline a job may name.")
    job_ttl_s: Seconds = Field(3600, description="How long an explanation can be fetched.")
    dead_letter_ttl_s: Seconds = Field(
        604_800,
        description="How long it is known which explanations were given up; see operating.md.",
    )
    result_cache_ttl_s: Seconds = Field(
        86_400, description="How long after it was computed a result may answer other requests."
    )
    job_time_limit_s: Seconds = Field(120, description="Longest run of one batch.")
    load_time_limit_s: Seconds = Field(900, description="Longest load of one model, with download.")
    retry_load_s: Seconds = Field(60, description="Wait before a failed load is tried again.")
    lease_s: Seconds = Field(
        30,
        description="How long a silent worker keeps its jobs; a process that is frozen for so long "
        "is replaced.",
    )
    drain_s: Seconds = Field(20, description="How long a stopping process may finish its work.")
    worker_stale_s: Seconds = Field(
        15, description="How long after its last heartbeat a worker counts as gone."
    )
    warm_up_every_s: Seconds = Field(
        30, description="How often a worker repeats its warm-up explanation, between batches."
    )
    shutdown_delay_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0,
        description="How long a stopping API still accepts calls while `/readyz` says 503, so that "
        "load balancers leave first.",
    )
    keep_alive_s: Seconds = Field(
        75,
        description="How long an idle connection is kept; longer than a load balancer in front "
        "keeps it.",
    )
    stall_s: Seconds = Field(
        30,
        description="How long the head of a request may take, its body stand still, or its answer "
        "be left unread.",
    )

    # how much
    api_processes: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Processes of the API that answer at its address; see operating.md.",
    )
    max_connections: Count = Field(
        1000, description="Connections that an API process serves at once; more get 503."
    )
    queue_depth: Count = Field(256, description="Open interactive jobs a model before 429.")
    bulk_queue_depth: Count = Field(
        1024,
        description="Open bulk jobs a model before 429; they fill no place of the others.",
    )
    rate_limit_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="Calls that make work, a minute and API key, all front ends together; without "
        "keys of all callers together. A key may have its own.",
    )
    reduced_jpegs: bool = Field(
        True,  # noqa: FBT003 - the default of a field
        description="Decode large JPEGs at a half, a quarter or an eighth of their size for models "
        "that need no more; a level of the input may then differ by one or two.",
    )
    input_cache_mb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        64,
        description="What an API process remembers of prepared uploads, so that a file that comes "
        "again is not decoded again; least recently used out first; 0: nothing. See operating.md.",
    )
    max_attempts: Count = Field(3, description="Runs of a job before it is given up.")
    dead_letters: Count = Field(1000, description="Dead letters kept a model; the oldest go first.")
    result_cache_mb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        32,
        description="Results kept in Redis a model, to answer the same question again without a "
        "device; least recently used out first; 0: none. See operating.md.",
    )
    devices: CommaSeparated = Field(
        ("auto",),
        description="`auto` (all GPUs, else the CPU), or a list, of a worker each: `cpu`, "
        "`cuda:0,cuda:1`, `cpu,cpu`. See operating.md.",
    )
    max_batch: Count = Field(
        8, description="Inputs, or variants of one, that share one forward pass."
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="CPU threads a worker computes with; 0: torch's choice."
    )
    cpu_memory_mb: Count | None = Field(
        None,
        description="Memory of a worker on the CPU, its models included: what needs more is "
        "computed a few inputs at a time, and refused if it does not fit alone. None: where there "
        "is no more, the kernel ends the worker. Linux only.",
    )
    memory_budget_mb: Count = Field(
        4096, description="Weights kept resident a worker; least recently used out first."
    )
    optimization: Literal["none", "fold", "compile"] = Field(
        "compile",
        description="How far the network up to the feature layer is made faster after a load: not "
        "at all; without a compiler; or with one, beside the jobs, if there is one. See "
        "operating.md.",
    )
    compile_time_limit_s: Seconds = Field(
        600, description="Longest compilation of one model in one precision."
    )
    activation_cache_mb: Annotated[int, Field(ge=0)] = Field(
        256,
        description="Activations of inputs that a worker keeps: another class of one of them runs "
        "the head alone; 0: none.",
    )
    preload: Literal["local", "none"] = Field(
        "local", description="Load models with local files at start, or all on first use."
    )
    factories: CommaSeparated = Field(
        (), description="Callables that `factory:` cards may name: `package.module:callable`."
    )

    @classmethod
    def from_environment(cls, **overrides: Any) -> Self:
        """Settings of the environment; raises ValueError for a variable that means nothing."""
        known = {f"{PREFIX}{name}".upper() for name in cls.model_fields}
        unknown = sorted({name for name in map(str.upper, os.environ) if is_setting(name)} - known)
        if unknown:
            near = near_names(unknown[0], sorted(known))
            hint = f"did you mean {near[0]}? All are " if near else "all are "
            raise ValueError(f"unknown setting {unknown[0]}: {hint}in docs/settings.md")
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]).upper() if first["loc"] else ""
            raise ValueError(f"{PREFIX}{name}: {first['msg']}; see docs/settings.md") from error

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in _LISTS:
            if isinstance(value := values.get(name), str):
                values[name] = tuple(part.strip() for part in value.split(",") if part.strip())
        return values

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: scheme, host and port as in https://app.example.com "
                    "or http://localhost:3000, without a path, or *"
                )
        return origins

    @property
    def costly_time_limit_s(self) -> float:
        """How long one job of many passes may compute: it must end by itself before the process
        ends that outlasts the limit of a batch."""
        return _COSTLY_SHARE * self.job_time_limit_s

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1_000_000)

    @property
    def proof_lasts_s(self) -> float:
        """How long a warm-up explanation shows that a worker can explain: until the next one, which
        may have to wait for the longest batch, has arrived."""
        return self.warm_up_every_s + self.job_time_limit_s + self.worker_stale_s
