"""Where videos come from: folders and the web; identity, provenance and licence of each, and what became of it.

Addresses run through these in order: listing (what is there), fetch (web.py or yt-dlp in site.py, every
connection through guard.py), arrival (is it a whole video), catalogue (what became of it), held (what a build
can use).
"""
