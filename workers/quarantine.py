"""Which versions of models took their worker process along while they were loaded.

A version that was being loaded when the process died is a suspect: it is loaded again only while
nothing else is, so that a second death tells who it was. That one is quarantined: it is not loaded
again until its folder changes, or an operator asks for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from camserve.errors import ModelQuarantined
from camserve.settings import Settings
from workers.load_notes import Loading, abandoned, noted, read_document, write_document
from workers.repository import Entry

__all__ = ["Quarantine", "Suspicion", "judge", "loads_dir"]

logger = logging.getLogger(__name__)

DEATHS: Final = 2  # one may be another's fault: a job that crashed beside it, a kill by hand
_SUFFIX: Final = ".suspect"


@dataclass(frozen=True)
class Suspicion:
    """What is held against one version of a model on one device of this host."""

    repository: str
    model: str
    version: str
    device: str
    deaths: int
    reason: str
    quarantined: bool = False


class Quarantine:
    """One worker process's side. Without a disk to write to, loads are not noted, as its log says.

    folder: that of the notes, of all workers of this host.
    """

    def __init__(self, folder: Path, models_dir: Path, *, worker: str, device: str) -> None:
        self._folder = folder
        self._repository = _absolute(models_dir)
        self._worker = worker
        self._device = device
        self._suspicions: dict[tuple[str, str], Suspicion] = {}
        self._notes: set[Path] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._warn(error)
        for one in _suspicions(folder):
            if (one.repository, one.device) == (self._repository, device):
                self._suspicions[one.model, one.version] = one

    def is_suspect(self, entry: Entry) -> bool:
        """Whether it must be loaded alone."""
        return (entry.name, entry.version) in self._suspicions

    def problem(self, entry: Entry) -> ModelQuarantined | None:
        """Why it must not be loaded, if so."""
        held = self._suspicions.get((entry.name, entry.version))
        if held is None or not held.quarantined:
            return None
        return ModelQuarantined(entry.name, entry.version, held.reason)

    @contextlib.contextmanager
    def noted(self, entry: Entry) -> Iterator[None]:
        """While it is being loaded. If the process survives that, nothing is held against it."""
        with contextlib.ExitStack() as stack:
            try:
                note = stack.enter_context(noted(self._folder, self._loading(entry)))
            except OSError as error:
                self._warn(error)
            else:
                self._notes.add(note)
                stack.callback(self._notes.discard, note)
            stack.callback(self._forget, entry.name, entry.version)
            yield

    def convict(self, entry: Entry, reason: str) -> None:
        """Quarantine it, for it alone is to blame."""
        self._hold(Suspicion(*_key(self._loading(entry)), DEATHS, reason, quarantined=True))

    def lift(self, entry: Entry) -> None:
        """Have it tried once more; another death in that, and it is back."""
        held = self._suspicions.get((entry.name, entry.version))
        if held is not None and held.quarantined:
            self._hold(replace(held, deaths=DEATHS - 1, quarantined=False))

    def forget_others(self, model: str, version: str | None) -> None:
        """Forget what is held against other versions of the model: its folder has changed."""
        for known, other in list(self._suspicions):
            if known == model and other != version:
                self._forget(known, other)

    def close(self) -> None:
        """This process ends of its own accord: what it is still loading is not to blame."""
        for note in list(self._notes):
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)

    def _hold(self, suspicion: Suspicion) -> None:
        self._suspicions[suspicion.model, suspicion.version] = suspicion
        try:
            write_document(_path(self._folder, suspicion), asdict(suspicion))
        except OSError as error:
            self._warn(error)

    def _forget(self, model: str, version: str) -> None:
        held = self._suspicions.pop((model, version), None)
        if held is not None:
            with contextlib.suppress(OSError):
                _path(self._folder, held).unlink(missing_ok=True)

    def _loading(self, entry: Entry) -> Loading:
        return Loading(self._repository, entry.name, entry.version, self._device, self._worker)

    def _warn(self, error: OSError) -> None:
        logger.warning(
            "loads cannot be noted in %s (%s): a model that crashes the worker while it is loaded "
            "would be loaded again and again; CAMSERVE_STATE_DIR names a folder to write to",
            self._folder,
            error,
        )


def loads_dir(settings: Settings) -> Path:
    """Where the workers of this host note what they load."""
    return settings.state_dir.absolute() / "loads"


def judge(folder: Path, ended: Mapping[str, str | None]) -> list[Suspicion]:
    """Hold against models that their process died while they were loaded; returns what is new.

    ended: how worker processes ended, by their names, as far as it was seen; None for one that was
    told to end, which is nobody's fault. Who was loaded with others is suspected only; who was
    loaded alone DEATHS times is quarantined. Raises OSError.
    """
    found: list[Suspicion] = []
    with abandoned(folder) as loads:
        for one in loads:
            alone = sum(other.worker == one.worker for other in loads) == 1
            how = ended.get(one.worker, "an end that nobody saw")
            if how is not None:
                found.append(_blamed(folder, one, how, alone=alone))
    return found


def _blamed(folder: Path, loading: Loading, how: str, *, alone: bool) -> Suspicion:
    key = _key(loading)
    before = _read(_path(folder, Suspicion(*key, 0, "")))
    deaths = before.deaths if before else 0
    deaths = deaths + 1 if alone else max(deaths, 1)
    quarantined = (alone and deaths >= DEATHS) or (before is not None and before.quarantined)
    hint = ", as the system does when memory runs out" if how == "SIGKILL" else ""
    reason = f"loading it ended the worker process {deaths} times (last: {how}{hint})"
    if before is not None and before.quarantined:
        reason = before.reason
    suspicion = Suspicion(*key, deaths, reason, quarantined=quarantined)
    write_document(_path(folder, suspicion), asdict(suspicion))
    return suspicion


def _key(loading: Loading) -> tuple[str, str, str, str]:
    return loading.repository, loading.model, loading.version, loading.device


def _path(folder: Path, suspicion: Suspicion) -> Path:
    about = (suspicion.repository, suspicion.model, suspicion.version, suspicion.device)
    name = hashlib.sha256("\0".join(about).encode()).hexdigest()[:32]
    return folder / f"{name}{_SUFFIX}"


def _suspicions(folder: Path) -> list[Suspicion]:
    found = (_read(path) for path in sorted(folder.glob(f"*{_SUFFIX}")))
    return [one for one in found if one is not None]


def _read(path: Path) -> Suspicion | None:
    document = read_document(path)
    try:
        return Suspicion(**document) if document else None
    except TypeError:
        return None


def _absolute(models_dir: Path) -> str:
    return str(models_dir.absolute())
