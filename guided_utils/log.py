"""The run's log for TensorBoard, which outlives full disks and lost folders: what cannot be written is tried again."""

import logging
import math
import os
import socket
import time
from collections import deque
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.writer import FileWriter

from guided_utils.interrupts import put_back

_files = count()


class Unwritten(logging.Handler):
    """What of a run could not be written: said once, remembered for the run's last lines.

    Whoever writes reports to `logging.getLogger("guided_sac.unwritten")`: `error(what, reason)` when it fails, and
    `info(what)` when it was written after all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing: dict[str, str] = {}
        self.said: set[str] = set()
        self.logger = logging.getLogger("guided_sac.unwritten")
        self.logger.handlers, self.logger.propagate = [self], False
        self.logger.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        what = str(record.msg)
        if record.levelno < logging.ERROR:
            self.missing.pop(what, None)
            return
        self.missing[what] = str(record.args[0] if record.args else "")
        if what not in self.said:
            self.said.add(what)
            print(f"not written: {what}: {self.missing[what]}; the run goes on and tries again", flush=True)


class EventFile:
    """An event file. Events wait in memory until they are written in one piece; half a record never stays.

    Args:
        log_dir: the run's folder.

    Raises:
        OSError: the file cannot be made now; later failures are reported to "guided_sac.unwritten".
    """

    SECONDS = 10.0  # between two writes
    WAITING = 100_000  # events that may wait for a disk

    def __init__(self, log_dir: str):
        self.log_dir = Path(log_dir)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_files)}"
        self.path = self.log_dir / name
        self.size = 0  # bytes of the file that are whole records
        self.waiting: deque[bytes] = deque(maxlen=self.WAITING)
        self.written_at = 0.0
        self.report = logging.getLogger("guided_sac.unwritten")
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"), write=False)
        self._write()

    def get_logdir(self) -> str:
        return str(self.log_dir)

    def add_event(self, event: Event, write: bool = True) -> None:
        """Take in an event; now and then all that wait are written."""
        if len(self.waiting) == self.WAITING:
            self.report.error("the oldest points of TensorBoard's log", "too many waited for the disk")
        self.waiting.append(event.SerializeToString())
        if write and time.monotonic() - self.written_at > self.SECONDS:
            self.flush()

    def flush(self, sync: bool = False) -> None:
        """Write all that wait; with `sync` return only when it is on the disk."""
        self.written_at = time.monotonic()
        try:
            self._write(sync)
        except OSError as error:
            self.report.error("TensorBoard's log", error)
        else:
            self.report.info("TensorBoard's log")

    def _write(self, sync: bool = False) -> None:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        if self.size and not self.path.exists():
            self.report.error("what was logged before", f"{self.path} is gone")
            self.size = 0
        with open(self.path, "r+b" if self.size else "wb", buffering=0) as file:
            file.truncate(self.size)
            file.seek(self.size)
            try:
                records = _Bytes()
                for event in self.waiting:
                    RecordWriter(records).write(event)
                _write_all(file, records.data)
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(self.size)
                raise
            self.size += len(records.data)
            self.waiting.clear()

    def close(self) -> None:
        self.flush()


class _Bytes:
    """What RecordWriter writes to."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data


def _write_all(file: Any, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


class PatientFileWriter(FileWriter):
    """SummaryWriter's file writer over an EventFile."""

    def __init__(self, log_dir: str):
        self.event_writer = EventFile(log_dir)


_open: list["RunLog"] = []  # the log of the run that goes on in this process


def end_run_with(message: str) -> NoReturn:
    """End the run with one line and exit status 1 from where its log is not at hand, or before there is one."""
    from guided_utils.checkpoint import leave_nothing  # here: it imports this module

    for log in _open:
        log.fail(message)
    leave_nothing()
    put_back()
    raise SystemExit(f"error: {message}")


class RunLog(SummaryWriter):
    """SummaryWriter whose file survives a failing disk, and which stops a run whose losses are no numbers any more.

    Args:
        purge_step: of a run that goes on: what was logged at this step and later is forgotten; None: a new run.
    """

    def __init__(self, log_dir: str, purge_step: int | None = None):
        self.unwritten = Unwritten()
        super().__init__(log_dir, purge_step=purge_step)
        _open[:] = [self]

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None:
            self.file_writer = PatientFileWriter(self.log_dir)
            self.all_writers = {self.log_dir: self.file_writer}
            purge_step, self.purge_step = self.purge_step, None
            if purge_step is not None:
                from tensorboard.compat.proto.event_pb2 import SessionLog

                start = SessionLog(status=SessionLog.START)
                self.file_writer.add_event(Event(session_log=start), purge_step)
        return self.file_writer

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None, **options: Any) -> None:
        """As SummaryWriter's. SystemExit where a loss is not finite: nothing can be learned from there on."""
        if tag.startswith("losses/") and not math.isfinite(scalar_value):
            self.fail(f"step {global_step:,}: {tag} is {scalar_value}: the networks have diverged")
        super().add_scalar(tag, scalar_value, global_step, **options)

    def sync(self) -> None:
        """Return when all that was logged is on the disk, or reported as unwritten."""
        self._get_file_writer().event_writer.flush(sync=True)

    def fail(self, message: str) -> NoReturn:
        """End the run with one line and exit status 1, its log written."""
        self.close()
        put_back()
        raise SystemExit(f"error: {message}")

    def close(self) -> None:
        """As SummaryWriter's."""
        super().close()
        if self in _open:
            _open.remove(self)


class Written(logging.Handler):
    """Paths of the videos that were written and not yet logged."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: deque[str] = deque()
        logger = logging.getLogger("guided_sac.videos")
        logger.handlers, logger.propagate = [self], False
        logger.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.paths.append(str(record.msg))


class TrackedLog(RunLog):
    """RunLog of a run that wandb follows: wandb reads the event file by itself, videos of training are logged here.

    Whoever writes one reports its path to `logging.getLogger("guided_sac.videos")`. (wandb's own way, `monitor_gym`,
    fails when an environment is closed, since Gymnasium 1.0.)
    """

    def __init__(self, log_dir: str, purge_step: int | None = None):
        self.videos, self.step = Written(), 0
        super().__init__(log_dir, purge_step)

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None, **options: Any) -> None:
        """As RunLog's; a video that was written since the last point belongs to this step."""
        super().add_scalar(tag, scalar_value, global_step, **options)
        self.step = self.step if global_step is None else global_step
        self._log_videos()

    def _log_videos(self) -> None:
        import wandb

        while self.videos.paths:
            path = self.videos.paths.popleft()
            try:
                wandb.log({"videos/training": wandb.Video(path, format="mp4"), "global_step": self.step})
                self.unwritten.logger.info("videos for wandb")
            except Exception as error:  # a full disk, a server that is away: wandb raises many things
                reason = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
                self.unwritten.logger.error("videos for wandb", reason)

    def close(self) -> None:
        """As RunLog's; the last episode's video is written when the environments are closed."""
        self._log_videos()
        super().close()
