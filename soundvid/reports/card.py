"""The dataset card of a version: README.md with the front matter that Hugging Face `datasets` reads."""

from typing import Any

import yaml


def dataset_card(manifest: dict[str, Any]) -> str:
    """Markdown for people, YAML for loaders: one configuration whose splits are the version's shards."""
    files: dict[str, list[str]] = {}
    for shard in manifest["shards"]:
        files.setdefault(shard["split"], []).append(f"../../shards/{shard['file']}")
    licences = sorted({s["licence"] or "as each video's site states" for s in manifest["recipe"]["sources"]})
    front = {
        "pretty_name": manifest["dataset"],
        "version": manifest["version"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "validation" if k == "val" else k, "path": v} for k, v in files.items()],
            }
        ],
    }
    counts = manifest["counts"]
    lines = [
        f"# {manifest['dataset']} {manifest['version']}",
        "",
        manifest["recipe"]["description"] or "An audio-visual dataset built by soundvid.",
        "",
        f"- {counts['samples']} clips from {counts['sources']['kept']} videos"
        f" ({counts['sources']['rejected']} rejected, {counts['sources']['failed']} failed: see ledger.parquet)",
        f"- licences of the sources: {', '.join(licences)}",
        f"- built {manifest['created']} with soundvid {manifest['tools']['soundvid']}",
        "",
        "| subject | videos | seconds | clips | frames |",
        "|---|---|---|---|---|",
        *(
            f"| {s['subject']} | {s['videos']} | {s['seconds']:.1f} | {s['clips']} | {s['frames']} |"
            for s in manifest["subjects"]
        ),
        "",
        "Members of a sample:",
        "",
        *(f"- `KEY.{name}`: {note}" for name, note in manifest["members"].items()),
        "",
    ]
    return "---\n" + yaml.safe_dump(front, sort_keys=False) + "---\n\n" + "\n".join(lines)
