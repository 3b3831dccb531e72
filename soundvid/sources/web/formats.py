"""Which of a site's formats is fetched: the smallest that still has the recipe's pixels, with its sound."""

from typing import Any

from soundvid.sources.web.errors import FetchProblem

# What can be fetched without another program; anything else (RTMP, websockets, encrypted) is refused.
PROTOCOLS = ("http", "https", "m3u8", "m3u8_native", "http_dash_segments")


def choose_formats(
    formats: list[dict[str, Any]], pixels: tuple[int, int], max_height: int | None
) -> list[dict[str, Any]]:
    """One format with pictures and sound, or two to be joined: the smallest that still has the pixels.

    Where none has them, the largest there is. One file is taken before two wherever both suffice. Raises
    FetchProblem `unsupported` where nothing can be fetched, `too_large` where all is above `max_height`.
    """
    usable = [f for f in formats if f.get("url") and f.get("protocol") in PROTOCOLS and not f.get("has_drm")]
    moving = [f for f in usable if f.get("vcodec") != "none" and f.get("ext") not in ("mhtml", "jpg", "png", "webp")]
    if not moving:
        raise FetchProblem("unsupported", "no format of it can be fetched (none, encrypted, or an unknown protocol)")
    fitting = [f for f in moving if max_height is None or (f.get("height") or 0) <= max_height]
    if not fitting:
        raise FetchProblem("too_large", f"all its formats are higher than max_height ({max_height})")
    sounds = [f for f in usable if f.get("vcodec") == "none" and f.get("acodec") != "none"]

    def size(form: dict[str, Any]) -> tuple[float, float, bool]:
        plain = form["protocol"] in ("http", "https")
        return form.get("height") or 0, form.get("filesize") or form.get("tbr") or 0, not plain

    def enough(form: dict[str, Any]) -> bool:
        width, height = form.get("width"), form.get("height")
        return (width is None or width >= pixels[0]) and height is not None and height >= pixels[1]

    def untold(form: dict[str, Any]) -> bool:
        return form.get("height") is None

    both = sorted((f for f in fitting if f.get("acodec") != "none"), key=size)
    silent = sorted((f for f in fitting if f.get("acodec") == "none"), key=size) if sounds else []
    voice = max(
        sounds, key=lambda f: (f.get("abr") or f.get("tbr") or 0, f["protocol"] in ("http", "https")), default=None
    )
    for group, fits in ((both, enough), (both, untold), (silent, enough), (silent, untold)):
        if chosen := next(filter(fits, group), None):
            return [chosen] if group is both else [chosen, voice] if voice else [chosen]
    best = max([*both, *silent], key=lambda f: (f.get("height") or 0, f in both), default=fitting[-1])
    return [best] if voice is None or best.get("acodec") != "none" else [best, voice]
