"""Redis as it is at one moment: keys are read by what is written about them, not by camserve."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

__all__ = ["MODEL", "JobKeys", "Lane", "Snapshot", "number_of_payload", "number_of_result"]

MODEL = "net"
"""The name of the network that numbers its inputs."""
PERMANENT = re.compile(r"cam:models|cam:workers|cam:link-secret")
_KEY = re.compile(r"cam:\{(?P<model>[^}]+)\}:(?P<kind>[a-z-]+)(?::(?P<rest>.*))?", re.DOTALL)

# in one step, so that what is compared belongs together
_READ = """
local found = {}
for _, name in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', name).ok
  local value = {}
  if kind == 'hash' then value = redis.call('HGETALL', name)
  elseif kind == 'string' then value = redis.call('GET', name)
  elseif kind == 'stream' then
    local pending = 0
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', name)) do
      for at = 1, #group, 2 do
        if group[at] == 'pending' then pending = pending + group[at + 1] end
      end
    end
    value = {redis.call('XRANGE', name, '-', '+'), pending}
  end
  found[#found + 1] = {name, kind, redis.call('PTTL', name), value}
end
return {redis.call('TIME'), found}
"""


@dataclass(frozen=True)
class JobKeys:
    """A job's hash, and what lies beside it. Times are s since the epoch."""

    job_id: str
    model: str
    fields: Mapping[str, str]
    result: bytes | None
    payload: bytes | None

    @property
    def state(self) -> str:
        return self.fields["state"]

    @property
    def is_open(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def attempts(self) -> int:
        return int(self.fields["attempts"])

    @property
    def created_s(self) -> float:
        return int(self.fields["created_ms"]) / 1000

    @property
    def deadline_s(self) -> float:
        return int(self.fields["deadline_ms"]) / 1000

    @property
    def completed_s(self) -> float | None:
        completed_ms = self.fields.get("completed_ms")
        return int(completed_ms) / 1000 if completed_ms else None

    @property
    def number(self) -> int | None:
        """Of the submission, read out of the values; None for a job of another network."""
        if self.model != MODEL:
            return None
        if self.result:
            return number_of_result(self.result)
        return number_of_payload(self.payload) if self.payload else None


@dataclass(frozen=True)
class Lane:
    """A stream: the id of the job of each entry, and how many entries a worker holds."""

    model: str
    entries: Mapping[str, str]
    pending: int


@dataclass
class Snapshot:
    """ttls: ms to live by key; -1 for ever. idempotency: (model, owner and key) -> job id."""

    now_s: float
    jobs: dict[str, JobKeys] = field(default_factory=dict)
    lanes: dict[str, Lane] = field(default_factory=dict)
    ttls: dict[str, int] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: redis.Redis) -> Snapshot:
        (seconds, micros), found = store.eval(_READ, 0)
        snapshot = cls(now_s=int(seconds) + int(micros) / 1e6)
        values: dict[tuple[str, str, str], Any] = {}
        for raw, _, ttl_ms, value in found:
            name = raw.decode(errors="replace")
            snapshot.ttls[name] = ttl_ms
            if match := _KEY.fullmatch(name):
                values[match["model"], match["kind"], match["rest"] or ""] = value
        for (model, kind, rest), value in values.items():
            if kind == "job":
                pairs = [part.decode(errors="replace") for part in value]
                fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
                beside = (values.get((model, one, rest)) for one in ("out", "in"))
                snapshot.jobs[rest] = JobKeys(rest, model, fields, *beside)
            elif kind == "stream":
                entries, pending = value
                ids = {entry.decode(): fields[1].decode() for entry, fields in entries}
                snapshot.lanes[f"{model}:{rest}"] = Lane(model, ids, pending)
            elif kind == "idem":
                snapshot.idempotency[model, rest] = value.decode().partition("\n")[0]
        return snapshot

    def depth(self, model: str) -> int:
        return sum(len(lane.entries) for lane in self.lanes.values() if lane.model == model)

    def immortal(self) -> list[str]:
        """Keys that will never go away, and are none of those that may stay."""
        return sorted(
            name
            for name, ttl_ms in self.ttls.items()
            if ttl_ms == -1 and not PERMANENT.fullmatch(name)
        )


def _parts(value: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    (size,) = struct.unpack("<Q", value[:8])
    return json.loads(value[8 : 8 + size]), value[8 + size :]


def number_of_payload(payload: bytes) -> int | None:
    """The first value of the first input."""
    header, data = _parts(payload)
    inputs = sorted(name for name in header if name.startswith("input"))
    if not inputs:
        return None
    start, _ = header[inputs[0]]["data_offsets"]
    return round(struct.unpack_from("<f", data, start)[0])


def number_of_result(result: bytes) -> int | None:
    """What the first score tells."""
    if len(result) < 8:
        return None  # of the load of a model
    metadata = _parts(result)[0].get("__metadata__", {})
    for text in metadata.values():
        rows = json.loads(text).get("rows", ())
        if rows and rows[0].get("score") is not None:
            return round(rows[0]["score"] * 64 / (rows[0]["class_index"] + 1))
    return None
