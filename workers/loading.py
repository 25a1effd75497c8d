"""One load of one version of a model, in a thread of its own: noted, of whole files, with room."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable

from camserve.engine import is_out_of_memory
from camserve.errors import ModelLoading, ModelUnavailable, one_line
from camserve.settings import Settings
from workers.memory import free_memory
from workers.models import ResidentModel, load_model
from workers.quarantine import Quarantine
from workers.repository import Entry

__all__ = ["CHANGING_RETRY_AFTER_S", "load_noted"]

logger = logging.getLogger(__name__)

CHANGING_RETRY_AFTER_S = 5


def load_noted(
    entry: Entry,
    device: str,
    settings: Settings,
    quarantine: Quarantine,
    room: Callable[[float], None],
) -> ResidentModel:
    """Load it, and be sure that what was loaded is the version that the entry names.

    room: makes room for so many bytes on the device. Raises ModelLoading while the files are being
    changed, and what `load_model` raises.
    """
    with quarantine.noted(entry):
        if not entry.is_as_read():
            raise _changing(entry)
        try:
            model = _with_all_memory(entry, device, settings, room)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold what was built so far
            free_memory(device)
            if not entry.is_as_read():
                raise _changing(entry) from error
            raise
        if not entry.is_as_read():
            raise _changing(entry)
        return model


def _with_all_memory(
    entry: Entry, device: str, settings: Settings, room: Callable[[float], None]
) -> ResidentModel:
    """A device may be fuller than the budget knows of: then all that can go does, once."""
    try:
        return load_model(entry, device, settings, room)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("no memory to load model %s: %s", entry.name, one_line(error))
        traceback.clear_frames(error.__traceback__)
    room(math.inf)
    free_memory(device)
    try:
        return load_model(entry, device, settings, room)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ModelUnavailable(
            f"model {entry.name!r} does not fit into the memory of {device}: "
            'quantization = "int8" on its card makes it smaller; or start a worker on a larger '
            "device"
        ) from error


def _changing(entry: Entry) -> ModelLoading:
    return ModelLoading(
        f"the files of model {entry.name!r} are being changed: it is loaded once they are whole; "
        f"try again in {CHANGING_RETRY_AFTER_S} s",
        retry_after_s=CHANGING_RETRY_AFTER_S,
    )
