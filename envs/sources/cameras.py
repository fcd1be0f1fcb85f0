"""Frames of cameras in a LeRobot data set: videos by PyAV, images by Pillow, where installed."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from envs.types import TraceError

OFF = "leave the cameras out with +source.options.frames=false"

# what decoders raise for damaged files and places; PyAV's own errors are of these
DAMAGE = (OSError, ValueError, LookupError, ArithmeticError, TypeError, MemoryError)


class Cameras:
    """Decoder of the `names` of cameras in the data set at `root`; `images` of them lie in its
    tables, the others in videos of `fps` frames per second. Raises `TraceError` if none is there.
    """

    def __init__(self, root: Path, names: list[str], images: list[str], fps: float):
        self.root, self.images, self.fps = root, images, float(fps)
        self.videos = [name for name in names if name not in images]
        self._av = _decoder("av", "av", self.videos)
        self._pillow = _decoder("PIL.Image", "pillow", self.images)
        self._places = self._read_places() if self.videos else {}

    def __call__(self, episode: int, table: pa.Table) -> dict[str, np.ndarray]:
        """uint8 [rows, H, V, 3] of each camera, for the rows of one episode."""
        frames = {name: self._pictures(table, name) for name in self.images}
        return frames | {name: self._video(episode, len(table), name) for name in self.videos}

    def _pictures(self, table: pa.Table, name: str) -> np.ndarray:
        found = []
        for row, cell in enumerate(table[name].to_pylist()):
            try:
                with self._pillow.open(io.BytesIO(cell["bytes"])) as image:
                    found.append(np.asarray(image.convert("RGB")))
            except (*DAMAGE, SyntaxError) as error:
                raise TraceError(f"{name}: the image of frame {row} is not readable") from error
        return _stacked(found, name)

    def _video(self, episode: int, rows: int, name: str) -> np.ndarray:
        """The frames from the episode's first moment on."""
        if (place := self._places[name].get(episode)) is None:
            raise TraceError(f"{self.root}: does not say where {name} of episode {episode} lies")
        chunk, file, start = place
        path = self.root / "videos" / name / f"chunk-{chunk:03d}" / f"file-{file:03d}.mp4"
        found = []
        try:
            with self._av.open(str(path)) as container:
                stream = container.streams.video[0]
                container.seek(int(start / stream.time_base), stream=stream)
                for frame in container.decode(stream):
                    if frame.time < start - 0.5 / self.fps:
                        continue
                    found.append(frame.to_ndarray(format="rgb24"))
                    if len(found) == rows:
                        break
        except DAMAGE as error:
            line = " ".join(str(error).split())
            raise TraceError(f"{path}: is not readable as a video: {line}; or {OFF}") from error
        if len(found) < rows:
            raise TraceError(f"{path}: ends {rows - len(found)} frames before episode {episode}")
        return _stacked(found, name)

    def _read_places(self) -> dict[str, dict[int, tuple[int, int, float]]]:
        """camera -> episode -> (chunk, file, seconds at which it begins)."""
        places: dict[str, dict[int, tuple[int, int, float]]] = {name: {} for name in self.videos}
        parts = ("chunk_index", "file_index", "from_timestamp")
        for name in self.videos:
            if not (self.root / "videos" / name).resolve().is_relative_to(self.root.resolve()):
                raise TraceError(f"{self.root}: the camera {name!r} lies outside of it")
            columns = ["episode_index", *(f"videos/{name}/{part}" for part in parts)]
            for file in sorted(self.root.glob("meta/episodes/chunk-*/file-*.parquet")):
                try:
                    table = pq.ParquetFile(file).read(columns=columns, use_threads=False)
                    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
                    for number, chunk, index, start in rows:
                        places[name][number] = int(chunk), int(index), float(start)
                except (pa.ArrowException, *DAMAGE) as error:
                    line = " ".join(str(error).split())
                    raise TraceError(f"{file}: does not say where {name} lies: {line}") from error
        return places


def _decoder(module: str, package: str, cameras: list[str]) -> Any:
    if not cameras:
        return None
    try:
        return import_module(module)
    except ImportError as error:
        what = f"the frames of {', '.join(cameras)} need a decoder"
        raise TraceError(f"{what}: pip install {package}, or {OFF}") from error


def _stacked(frames: list[np.ndarray], name: str) -> np.ndarray:
    try:
        return np.stack(frames)
    except ValueError as error:
        raise TraceError(f"{name}: frames of different sizes") from error
