"""The ffmpeg command line: the reference that is compared with, and the maker of sources.

Command lines are built with ffmpeg-python and run by the binary of imageio-ffmpeg. soundvid itself uses PyAV: in its
own process it sees exact time stamps, and needs no binary.
"""

import subprocess
from typing import Any

import ffmpeg
import imageio_ffmpeg

FFMPEG: str = imageio_ffmpeg.get_ffmpeg_exe()
_QUIET = ["-v", "error", "-nostdin"]
_ONE_THREAD = ["-filter_threads", "1", "-filter_complex_threads", "1"]


def command(*outputs: Any) -> list[str]:
    """The command line that writes `outputs` (of ffmpeg.output), quietly and with one thread for filters."""
    graph = ffmpeg.merge_outputs(*outputs).global_args(*_QUIET, *_ONE_THREAD)
    found: list[str] = graph.compile(cmd=FFMPEG, overwrite_output=True)
    return found


def run(*outputs: Any, stdin: bytes | None = None) -> None:
    """Write `outputs`. Raises CalledProcessError where ffmpeg cannot."""
    subprocess.run(command(*outputs), input=stdin, check=True)


def run_arguments(*arguments: Any) -> None:
    """Run ffmpeg with arguments as a shell would give them. Raises CalledProcessError where it cannot."""
    subprocess.run([FFMPEG, *_QUIET, "-y", *map(str, arguments)], check=True)
