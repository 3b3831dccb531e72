"""Sample sources made by our own code: claps, a drum, vowels, fireworks and surf, with exactly known event times."""

from soundvid.demo.make import SOURCES, events, make_sources, videos
from soundvid.demo.scene import Event

__all__ = ["SOURCES", "Event", "events", "make_sources", "videos"]
