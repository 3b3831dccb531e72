"""Where videos come from: folders (here) and the web (`web`); identity, provenance and licence of each.

- model: a discovered source, wherever it comes from
- folder: the files that a recipe's folders name; sidecar: sound files that belong to them
- digests: which file it is, by its content, remembered by size and modification time
- web: listing, downloading and validating videos from addresses
"""
