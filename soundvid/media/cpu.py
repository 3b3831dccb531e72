"""One instruction set for every machine: the last step to the same bytes everywhere.

FFmpeg picks its inner loops by the processor it finds. Integer loops agree with each other to the bit,
floating-point ones (AAC, Opus, MP3, FLAC's predictor) differ in the last place, and one sample in some
hundreds then rounds to another 16-bit value. So soundvid asks FFmpeg for the loops of x86-64-v3 (AVX2 and
FMA, every x86-64 server since 2015) on all processors that have them, whatever else they offer.
Processors without them, and other architectures, keep their own choice; `level()` says which it was and
the manifest of a version records it.
"""

import ctypes
import platform
from functools import cache
from pathlib import Path

import av

# libavutil/cpu.h: the flags that make up x86-64-v3. CMOV, AESNI and most "slow" hints are left out on purpose.
# SLOW_GATHER makes swscale leave AVX2's gather instructions, with which scaling takes more than twice as long on many
# processors (AMD's, and Intel's with the microcode against Downfall), and a fifth less on others. Pictures and sound
# are the same with and without it.
_MMX, _MMXEXT, _SSE, _SSE2, _SSE3, _SSSE3 = 0x1, 0x2, 0x8, 0x10, 0x40, 0x80
_SSE4, _SSE42, _AVX, _AVX2, _FMA3, _BMI1, _BMI2 = 0x100, 0x200, 0x4000, 0x8000, 0x10000, 0x20000, 0x40000
_SLOW_GATHER = 0x2000000
_DOWNFALL = Path("/sys/devices/system/cpu/vulnerabilities/gather_data_sampling")
_V3 = _MMX | _MMXEXT | _SSE | _SSE2 | _SSE3 | _SSSE3 | _SSE4 | _SSE42 | _AVX | _AVX2 | _FMA3 | _BMI1 | _BMI2


def _avutil() -> ctypes.CDLL | None:
    """The libavutil that PyAV itself has loaded, or None where the wheel is laid out otherwise."""
    root = Path(av.__file__).parent
    for folder in (root.parent / "av.libs", root / ".dylibs"):
        for path in sorted(folder.glob("libavutil*")):
            return ctypes.CDLL(str(path))
    return None


@cache
def level() -> str:
    """Pin FFmpeg's instruction set for this process (once) and name it: `x86-64-v3`, or the machine's own."""
    lib = _avutil()
    offered = lib.av_get_cpu_flags() if lib is not None else 0
    if lib is not None and offered & _V3 == _V3:
        slow = offered & _SLOW_GATHER or not _is_free_of_downfall()
        lib.av_force_cpu_flags(_V3 | (_SLOW_GATHER if slow else 0))
        return "x86-64-v3"
    return f"native-{platform.machine()}"


def _is_free_of_downfall() -> bool:
    """Whether Linux knows that gather instructions were not slowed down by microcode; older kernels do not say."""
    try:
        return _DOWNFALL.read_text().strip() == "Not affected"
    except OSError:
        return False


def x264_params() -> str:
    """x264's own settings, `name=value:...`: decisions that are the same on every processor, and `level()`'s loops.

    Those of AVX-512 are left out. With B-frames one file in twenty had other bytes when it was written again (x264 of
    PyAV 18 on an Intel Xeon, Sapphire Rapids; without B-frames, as in clips, none was seen), and at the size of clips,
    286 pixels, they took 8 % longer than AVX2's.
    """
    return "cpu-independent=1" + (":asm=avx2" if level() == "x86-64-v3" else "")
