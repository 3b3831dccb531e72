"""What a version says of itself to other programs: the dataset card, Croissant, and the published index.

The card is README.md with the front matter that Hugging Face `datasets` reads: one configuration, the shards of each
split in it. Croissant (mlcommons.org/croissant/1.0) names every file with its sha256 and the rows of the index.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from soundvid.store.schema import count_by
from soundvid.util.hashing import canonical_json

_HUB_LICENCES = re.compile(r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-(2\.0|2\.5|3\.0|4\.0)|apache-2\.0|mit|pddl|odbl")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def published_files(
    manifest: Mapping[str, Any],
    samples: pa.Table,
    names: Mapping[str, str],
    exact: bool,
    sample: Mapping[str, bytes],
) -> dict[str, bytes]:
    """The files at the root of a published dataset, by name. `names`: each shard's name in data/. `sample`: the members
    of one, from which the types of all are read.

    `exact`: data/ holds the shards of this version and no others, so patterns such as data/train-*.tar may be used.
    """
    shard = pc.binary_join_element_wise("data", pa.array([names[s] for s in samples["shard"].to_pylist()]), "/")
    index = samples.set_column(samples.schema.get_field_index("shard"), "shard", shard)
    data = io.BytesIO()
    pq.write_table(index, data, compression="zstd", write_statistics=True)
    sha256 = hashlib.sha256(data.getvalue()).hexdigest()
    files = {f"data/{names[s['file']]}": s["sha256"] for s in manifest["shards"]}
    licences = [(licence or "not stated", count) for licence, count in sorted(count_by(samples, ["licence"]), key=str)]
    return {
        "README.md": dataset_card(
            manifest, names, exact=exact, licences=licences, features=_hub_features(sample, samples)
        ).encode(),
        "croissant.json": json.dumps(croissant(manifest, index, names, licences, sha256), indent=1).encode(),
        "manifest.json": canonical_json({**manifest, "data": files}),
        "index/samples.parquet": data.getvalue(),
    }


def dataset_card(
    manifest: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    *,
    exact: bool = False,
    licences: list[tuple[str, int]] | None = None,
    features: list[dict[str, Any]] | None = None,
) -> str:
    """Markdown for people, YAML for loaders: one configuration whose splits are the version's shards.

    With `names` it is the card of the published dataset, whose shards have these names in data/ (see published_files).
    """
    files: dict[str, list[str]] = {}
    for shard in manifest["shards"]:
        place = f"../../shards/{shard['file']}" if names is None else f"data/{names[shard['file']]}"
        files.setdefault(shard["split"], []).append(place)
    if exact:
        files = {split: [f"data/{split}-*.tar"] for split in files}
    stated = sorted({s["licence"] or "as each video's site states" for s in manifest["recipe"]["sources"]})
    size = next((name for most, name in _SIZES if manifest["counts"]["samples"] < most), "n>1M")
    known = sorted({name.lower() for name, _ in licences or []})
    front = {
        "pretty_name": manifest["dataset"],
        **({"license": known if all(map(_HUB_LICENCES.fullmatch, known)) else "other"} if licences else {}),
        "size_categories": [size],
        "tags": ["webdataset", "video", "audio"],
        "version": manifest["version"],
        **({"dataset_info": {"features": features}} if features else {}),
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "validation" if k == "val" else k, "path": v[0] if exact else v} for k, v in files.items()
                ],
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
        f"- licences of the sources: {', '.join(stated)}",
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
    if names is not None:
        lines += _for_other_programs(manifest, names, licences or [])
    return "---\n" + yaml.safe_dump(front, sort_keys=False) + "---\n\n" + "\n".join(lines)


def _hub_features(sample: Mapping[str, bytes], index: pa.Table) -> list[dict[str, Any]]:
    """The columns that Hugging Face makes of the members, with their types: it would guess them of five samples."""
    found: list[dict[str, Any]] = []
    for name, data in sample.items():
        if name in ("mp4", "flac"):
            found.append({"name": name, "dtype": {"mp4": "video", "flac": "audio"}[name]})
        elif name == "json":
            found.append({"name": name, **_hub_type(json.loads(data), name, index)})
        else:
            array = np.load(io.BytesIO(data), allow_pickle=False)
            kind: Any = str(array.dtype)
            for _ in range(array.ndim):
                kind = {"list": kind}
            found.append({"name": name, **kind})
    return [*found, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def _hub_type(value: Any, name: str, index: pa.Table) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"struct": [{"name": k, **_hub_type(v, k, index)} for k, v in value.items()]}
    if isinstance(value, list):
        inner = _hub_type(value[0] if value else 0, name, index)
        return {"list": inner.get("dtype", inner)}
    if value is None and name in index.column_names:
        value = {"double": 0.0, "string": ""}.get(str(index.schema.field(name).type), 0)
    kinds = {bool: "bool", int: "int64", float: "float64"}
    return {"dtype": kinds.get(type(value), "string")}


def _for_other_programs(
    manifest: Mapping[str, Any], names: Mapping[str, str], licences: list[tuple[str, int]]
) -> list[str]:
    columns = "key, shard, mp4_offset, licence"
    return [
        "## Licences",
        "",
        "Each clip has the licence of its video: column `licence` of `index/samples.parquet`, one row for each clip.",
        "",
        "| licence | clips |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in licences),
        "",
        "## Reading it",
        "",
        f"`soundvid.load(ADDRESS, {manifest['version']!r})` reads exactly this version, clip by clip. The shards are "
        "plain WebDataset:",
        "",
        *(f"- {split}: `{pattern}`" for split, pattern in shard_patterns(manifest, names).items()),
        "",
        "`datasets.load_dataset` gives `mp4` as Video and `flac` as Audio. Audio needs torch, torchcodec and the "
        "libraries of FFmpeg (`pip install 'datasets[audio]'`), already to be loaded; `features` with `flac` as "
        '`Value("binary")` needs none of them, and `cast_column("mp4", Video(decode=False))` gives the bytes of the '
        "pictures. A video has no sound track: the sound is the flac of the same row.",
        "",
        f"`index/samples.parquet` says where each member of each clip lies: `SELECT {columns} FROM "
        "'index/samples.parquet'` in DuckDB.",
        "",
    ]


def shard_patterns(manifest: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """For each split its shards in braces, as webdataset expands them: data/train-{00000..00007}.tar."""
    numbers: dict[str, list[int]] = {}
    for shard in manifest["shards"]:
        split, _, digits = names[shard["file"]].removesuffix(".tar").partition("-")
        numbers.setdefault(split, []).append(int(digits))
    patterns = {}
    for split, given in numbers.items():
        runs: list[list[int]] = []
        for number in sorted(given):
            if runs and runs[-1][1] + 1 == number:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        parts = [f"{a:05d}" if a == b else f"{{{a:05d}..{b:05d}}}" for a, b in runs]
        patterns[split] = f"data/{split}-{parts[0] if len(parts) == 1 else '{' + ','.join(parts) + '}'}.tar"
    return patterns


def croissant(
    manifest: Mapping[str, Any],
    index: pa.Table,
    names: Mapping[str, str],
    licences: list[tuple[str, int]],
    index_sha256: str,
) -> dict[str, Any]:
    """Croissant 1.0: every shard, the index, and a record for each clip."""
    kinds = {
        "string": "sc:Text",
        "double": "sc:Float",
        "int64": "sc:Integer",
        "int32": "sc:Integer",
        "bool": "sc:Boolean",
    }
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"clips/{field.name}",
            "name": field.name,
            "dataType": kinds[str(field.type)],
            "source": {"fileObject": {"@id": "index"}, "extract": {"column": field.name}},
        }
        for field in index.schema
        if str(field.type) in kinds
    ]
    shards = [
        {
            "@type": "cr:FileObject",
            "@id": names[s["file"]],
            "name": names[s["file"]],
            "contentUrl": f"data/{names[s['file']]}",
            "contentSize": f"{s['bytes']} B",
            "encodingFormat": "application/x-tar",
            "sha256": s["sha256"],
        }
        for s in manifest["shards"]
    ]
    members = [
        {
            "@type": "cr:FileSet",
            "@id": kind,
            "name": kind,
            "containedIn": [{"@id": s["@id"]} for s in shards],
            "encodingFormat": encoding,
            "includes": f"*.{kind}",
        }
        for kind, encoding in (("mp4", "video/mp4"), ("flac", "audio/flac"))
    ]
    files = [
        {
            "@type": "cr:RecordSet",
            "@id": f"{kind}_files",
            "name": f"{kind}_files",
            "description": f"Each clip's {what}: name and content.",
            "field": [
                {
                    "@type": "cr:Field",
                    "@id": f"{kind}_files/{field}",
                    "name": field,
                    "dataType": data_type,
                    "source": {"fileSet": {"@id": kind}, "extract": {"fileProperty": extract}},
                }
                for field, data_type, extract in (
                    ("filename", "sc:Text", "filename"),
                    ("content", "sc:Text", "content"),
                )
            ],
        }
        for kind, what in (("mp4", "pictures"), ("flac", "sound"))
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest["dataset"],
        "version": manifest["version"],
        "description": manifest["recipe"]["description"] or "An audio-visual dataset built by soundvid.",
        "datePublished": manifest["created"],
        "license": [name for name, _ in licences],
        "distribution": [
            *shards,
            *members,
            {
                "@type": "cr:FileObject",
                "@id": "index",
                "name": "index",
                "contentUrl": "index/samples.parquet",
                "encodingFormat": "application/x-parquet",
                "sha256": index_sha256,
            },
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "clips", "name": "clips", "field": fields}, *files],
    }


_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
