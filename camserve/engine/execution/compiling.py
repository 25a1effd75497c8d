"""A backbone compiled ahead of time by torch's inductor, in a process of its own.

Of its own, because a compiler takes tens of seconds, may hang and may crash, and jobs are computed
meanwhile: a process can be given little priority, and be ended. What it makes is kept in a folder,
so that the next worker with the same network, weights, torch and processor only loads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from camserve.engine.exclusion import tracing
from camserve.engine.execution import compiler_process
from camserve.engine.execution.execution import RunBackbone, in_precision
from camserve.engine.execution.identity import identity_of
from camserve.engine.execution.split import Split
from camserve.vocabulary import Precision

__all__ = ["CannotCompile", "Compiler", "save_program"]

_LOOK_S = 0.2
_KEPT = 4  # two precisions of two versions
_TRIES = 3  # a process may end for other reasons while it tries a package


class CannotCompile(Exception):
    """There is no compiled backbone; says why, for people."""


@dataclass(frozen=True)
class Compiler:
    """folder: where what was compiled of a model is kept, the latest used few. time_limit_s: of one
    backbone, and of waiting for another worker that compiles it."""

    folder: Path
    time_limit_s: float

    @contextlib.contextmanager
    def compiled(
        self, split: Split, batch: int, precision: Precision
    ) -> Iterator[tuple[RunBackbone, int]]:
        """The backbone, and how many bytes it takes besides the model. Minutes, the first time.

        It is tried inside, by one worker at a time: so a trial that was begun before, and has not
        ended, is of a process that did not survive it. batch: the dimension of the inputs that
        counts them. Raises CannotCompile.
        """
        until_s = time.monotonic() + self.time_limit_s
        package = self.folder / f"{identity_of(split.backbone, precision)}.pt2"
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_alone(self.folder / "lock", until_s))
                if not package.exists():
                    self._make(package, split, batch, precision, until_s)
                os.utime(package)
                self._forget_old()
                stack.enter_context(_trial(package))
                found = _loaded(package, split.device), package.stat().st_size
            except OSError as error:  # a full disk, or a folder that may not be written to
                raise CannotCompile(f"{type(error).__name__}: {error.strerror}") from error
            yield found

    def _make(
        self, package: Path, split: Split, batch: int, precision: Precision, until_s: float
    ) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            program, made = Path(scratch) / "backbone.pt2", Path(scratch) / "compiled.pt2"
            save_program(program, split, batch, precision)
            _compile_apart(program, made, Path(scratch), until_s)
            made.replace(package)

    def _forget_old(self) -> None:
        packages = sorted(self.folder.glob("*.pt2"), key=lambda file: file.stat().st_mtime)
        for package in packages[:-_KEPT]:
            package.unlink()
            _trials(package).unlink(missing_ok=True)


def _trials(package: Path) -> Path:
    """Holds a byte for each process that began to try the package and has not survived it."""
    return package.with_suffix(".trials")


@contextlib.contextmanager
def _trial(package: Path) -> Iterator[None]:
    """Raises CannotCompile for one that ended several processes: else it would end each worker that
    follows."""
    with _trials(package).open("ab") as trials:
        if trials.tell() >= _TRIES:
            raise CannotCompile("processes that tried it ended meanwhile")
        trials.write(b"-")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _trials(package).unlink(missing_ok=True)


class _In(nn.Module):
    """A backbone in some precision, whose results are float32 again."""

    def __init__(self, backbone: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.backbone = backbone
        self._precision = precision

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        found = in_precision(self.backbone, self._precision)(inputs)
        return tuple(one.float() if one.is_floating_point() else one for one in found)


def save_program(path: Path, split: Split, batch: int, precision: Precision) -> None:
    dynamic = {batch: torch.export.Dim("batch", min=1, max=4096)}
    try:
        with tracing(), torch.no_grad():
            program = torch.export.export(
                _In(split.backbone, precision),
                (split.example(2),),
                dynamic_shapes=(dynamic,),
                strict=False,
            )
        torch.export.save(program, path)
    except OSError:
        raise
    except Exception as error:  # it is then run as it is
        raise CannotCompile(f"it cannot be exported alone: {type(error).__name__}") from error


def _compile_apart(program: Path, made: Path, scratch: Path, until_s: float) -> None:
    """Raises CannotCompile if the compiler fails, or is not done in time: then it is ended."""
    threads = str(torch.get_num_threads())
    command = (sys.executable, compiler_process.__file__, str(program), str(made), threads)
    with (scratch / "said").open("w+b") as said:
        child = subprocess.Popen(  # noqa: S603 - of this very interpreter
            command,
            stdin=subprocess.PIPE,  # its end tells the child that we are gone
            stdout=said,
            stderr=said,
            env=_environment(scratch),
            start_new_session=True,  # so that what it starts ends with it
        )
        try:
            child.wait(max(until_s - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise CannotCompile("the compiler was not done in time") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
        if child.returncode != 0 or not made.exists():
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            last = lines[-1][:200] if lines else f"it ended with code {child.returncode}"
            raise CannotCompile(f"the compiler failed: {last}")


def _environment(scratch: Path) -> Mapping[str, str]:
    """Its caches, and what it unpacks, go with the scratch folder."""
    places = {name: str(scratch) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    return {**os.environ, **places, "TMPDIR": str(scratch)}


def _loaded(package: Path, device: torch.device) -> RunBackbone:
    """On a GPU without locks of its own, which cannot be captured: who explains holds one."""
    on_gpu = device.type == "cuda"
    index = device.index if on_gpu and device.index is not None else -1
    try:
        return torch._inductor.aoti_load_package(  # noqa: SLF001 - its only name
            str(package), run_single_threaded=on_gpu, device_index=index
        )
    except Exception as error:
        package.unlink(missing_ok=True)  # cut off by a crash, say: it is made again
        raise CannotCompile(
            f"what was compiled cannot be loaded: {type(error).__name__}"
        ) from error


@contextlib.contextmanager
def _alone(path: Path, until_s: float) -> Iterator[None]:
    """While no other worker is in here. Raises CannotCompile if one is for too long."""
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    raise CannotCompile("another worker's compiler was not done in time") from None
                time.sleep(_LOOK_S)
        yield
