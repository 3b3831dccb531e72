"""What a notebook shows of clips: one clip with its figure and video, or a contact sheet of several."""

from functools import partial
from html import escape
from pathlib import Path

import numpy as np

from soundvid.reports.figures import THUMBNAIL_WAVE, figure, stored_lanes, thumbnail
from soundvid.reports.version_page import environment
from soundvid.store.load import Clips

SHEET = 12  # clips on a contact sheet
HEIGHT = 560  # pixels of a clip's frame


def clip(clips: Clips, index: int) -> str:
    """A clip: frames, features, waveform and spectrogram, its video with sound, and the main facts.

    In a frame of its own, because a notebook's outputs share one page and one style.
    """
    row = clips.rows[index]
    flac = clips.member(index, "flac") if clips.has_sound else b""
    lanes = stored_lanes(clips.manifest, row, partial(clips.feature, index))
    drawn = figure(clips.member(index, "mp4"), flac, row["frames"], row["seconds"], lanes)
    body = environment().get_template("figure.html.j2").render(f=drawn)
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    facts = [row["subject"], row["split"], row["source_name"], f"from {row['start_seconds']:.2f} s",
             f"{row['frames']} frames at {row['fps_exact']} fps", row["licence"], row["caption"]]  # fmt: skip
    about = escape(" · ".join(filter(None, facts)))
    head = f"<header><b>{escape(row['key'])}</b><span class=name>{about}</span></header>"
    page = (
        "<!doctype html><meta charset=utf-8><meta name=color-scheme content='light dark'>"
        f"<style>{style} body{{background:none}} .clip{{margin:0}}</style>"
        f"<article class=clip>{head}{body}</article><script>{script}</script>"
    )
    height = HEIGHT + 82 * len(lanes)
    style = f"width:100%;height:{height}px;border:0"
    return f'<iframe srcdoc="{escape(page)}" style="{style}" title="{escape(row["key"])}"></iframe>'


def sheet(clips: Clips) -> str:
    """A contact sheet: up to SHEET clips, spread evenly, each with pictures, waveform, subject and key."""
    chosen = sorted({i * len(clips) // SHEET for i in range(SHEET)}) if len(clips) > SHEET else range(len(clips))
    cells = []
    for i in chosen:
        row = clips.rows[i]
        pictures, _, wave = thumbnail(row, clips.member(i, "mp4"), clips.member(i, "flac") if clips.has_sound else b"")
        about = f"[{i}] {row['subject']} · {row['source_name']} at {row['start_seconds']:.2f} s"
        cells.append(
            f'<div style="width:230px"><img src="{pictures}" alt="" style="display:block;width:100%">'
            f'<svg viewBox="0 -100 {THUMBNAIL_WAVE} 200" preserveAspectRatio="none" style="display:block;width:100%;'
            f'height:28px"><path d="{wave}" fill="#7d86e0"/></svg><div style="font-size:12px;overflow:hidden;'
            f'text-overflow:ellipsis;white-space:nowrap" title="{escape(row["key"])}">{escape(about)}</div></div>'
        )
    seconds = float(np.sum(clips.table.column("seconds").to_numpy()))
    title = f"{clips.name}@{clips.version} {clips.split}: {len(clips):,} clips, {seconds:,.0f} s, {clips.fps:g} fps"
    more = f" (of these, {len(cells)})" if len(clips) > len(cells) else ""
    return (
        f"<div><b>{escape(title)}</b>{more}</div>"
        f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin-top:8px">{"".join(cells)}</div>'
    )
