"""Every file type of ucl as data: datasets, shapes, types, and the order of streaming.

Writing, reading, `validate`, the manual page and the tests read this table; nothing else states it
again.  A shape is written in letters (N samples, D dimensions, K clusters, ...): equal letters in
one file mean equal lengths.  A dtype is a numpy code without byte order (`f4`; always little-endian
on disk), `S` for fixed-length UTF-8 strings, several joined by `|` where any of them will do, `*`
for any, or a compound as `name code, name code, ...`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

VERSION = "1.0"
PROFILE = "stream-1"
END_MARK = "COMPLETE"
CRC_BLOCK = 1 << 20

STATUS: Mapping[str, int] = {
    "OK": 0, "UNREADABLE": 1, "TOO_LARGE": 2, "NOT_FINITE": 3, "MISSING": 4, "PENDING": 255,
}  # fmt: skip
FLAG: Mapping[str, int] = {
    "KEPT": 0, "CUT_BY_DISTANCE": 1, "DROPPED_BY_VOTE": 2, "PULLED_BACK": 3, "DISSOLVED": 4,
    "BAD_IMAGE": 5, "NOT_CONFIDENT": 6,
}  # fmt: skip
CORRECT: Mapping[str, int] = {"WRONG": 0, "RIGHT": 1, "LEFT_OUT": 2}


@dataclass(frozen=True)
class Item:
    """One dataset.

    Attributes:
        path: absolute name in the file; in `prefix_items` the group it lies under, ending in `/`.
        dims: its shape; a letter stands for a length, a number for itself.  `("*",)` is any shape.
        dtype: see the module's text.
        required: a file without it is not of this type.
        trailing: known only at the end, so streamed after everything else.
        enum: names of the values, written as an HDF5 enumeration.
        help: one line for people.
    """

    path: str
    dims: tuple[str | int, ...]
    dtype: str
    required: bool
    trailing: bool = False
    enum: Mapping[str, int] | None = None
    help: str = ""


@dataclass(frozen=True)
class Attr:
    """One attribute of the root group.

    Attributes:
        name: its name.
        dtype: `S` (fixed-length UTF-8) or `i8`.
        help: one line for people.
        result_relevant: part of the content digest.
    """

    name: str
    dtype: str
    help: str
    result_relevant: bool = False


@dataclass(frozen=True)
class FileType:
    """One kind of artifact.

    Attributes:
        kind: the value of `encoding-type`.
        version: `MAJOR.MINOR`; a reader takes its own MAJOR and any MINOR.
        items: the datasets, in the order they are streamed (trailing ones last).
        prefix_items: groups whose datasets are not known beforehand.
        attrs: root attributes that only this kind has.
        aliases: names under which other people's files keep a dataset of ours.
        help: one line for people.
    """

    kind: str
    version: str
    items: tuple[Item, ...]
    prefix_items: tuple[Item, ...] = ()
    attrs: tuple[Attr, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    help: str = ""

    def item(self, path: str) -> Item | None:
        """The entry that speaks of `path`, or None."""
        for item in self.items:
            if item.path == path:
                return item
        return next((p for p in self.prefix_items if path.startswith(p.path)), None)

    def required(self) -> tuple[Item, ...]:
        """The datasets that no file of this kind lacks."""
        return tuple(item for item in self.items if item.required)


ROOT_ATTRS: tuple[Attr, ...] = (
    Attr("encoding-type", "S", "the kind of artifact", result_relevant=True),
    Attr("encoding-version", "S", "MAJOR.MINOR of the layout"),
    Attr("profile", "S", "stream-1: metadata first, raw data after it in a known order"),
    Attr("creator", "S", "program and version that wrote the file"),
    Attr("title", "S", "one line for people"),
    Attr("recipe-id", "S", "sha256 of what was asked for, known before the first byte"),
    Attr("samples-digest", "S", "sha256: of every path and a newline in row order",
         result_relevant=True),
    Attr("n-samples", "i8", "N", result_relevant=True),
    Attr("context", "S", "method, round, stage, epoch, generation, seed: JSON"),
)  # fmt: skip

PROVENANCE = Item("/provenance", ("steps",), "S", False, help="JSON per step, oldest first")
INTEGRITY: tuple[Item, ...] = (
    Item("/integrity/content_sha256", (32,), "u1", False, trailing=True, help="the content digest"),
    Item("/integrity/crc32", ("M",), "u4", False, trailing=True,
         help="CRC-32 of every MiB of the file from byte 0 to this dataset"),
    Item("/integrity/end", (1,), "S", False, trailing=True, help="COMPLETE: the last bytes"),
)  # fmt: skip

_PATH = Item("/samples/path", ("N",), "S", False, help="path of each image below the root")
_PATH_REQUIRED = Item("/samples/path", ("N",), "S", True, help=_PATH.help)
_PARENT = Item("/samples/parent_row", ("N",), "i8", False, help="row in the file it was taken from; -1 for none")
_STATUS = Item("/samples/status", ("N",), "u1", False, trailing=True, enum=STATUS,
               help="whether each image could be used")  # fmt: skip
_SIZE = Item("/samples/size", ("N",), "u8", False, trailing=True, help="bytes of the image file")
_HEIGHT = Item("/samples/height", ("N",), "u4", False, trailing=True, help="upright height of each image in pixels")
_WIDTH = Item("/samples/width", ("N",), "u4", False, trailing=True, help="upright width of each image in pixels")
_CRC = Item("/samples/crc32", ("N",), "u4", False, trailing=True, help="CRC-32 of the image file")

_PARENT_DIGEST = Attr("parent-digest", "S", "where there is parent_row: samples-digest of the list of origin")

FEATURES = FileType(
    "ucl/features",
    VERSION,
    (
        _PATH,
        _PARENT,
        Item("/features", ("N", "D"), "f4|f2", True, help="one feature vector per image"),
        _STATUS,
        _SIZE,
        _CRC,
    ),
    attrs=(
        Attr("model", "S", "name of the network"),
        Attr("weights-sha256", "S", "digest of its weights"),
        Attr("layer", "S", "where the features were taken"),
        Attr("transform", "S", "image preparation: JSON"),
        Attr("normalized", "S", "none or l2"),
        _PARENT_DIGEST,
    ),
    aliases={"/train": "/features"},
    help="one feature vector per image",
)

LABELS = FileType(
    "ucl/labels",
    VERSION,
    (
        _PATH,
        _PARENT,
        Item("/labels", ("N",), "i4", True, help="cluster of each image; -1 is in no cluster"),
        Item("/flag", ("N",), "u1", False, enum=FLAG, help="why a label is what it is"),
        Item("/distance", ("N",), "f4", False, help="distance to the mean of the members"),
        Item("/score", ("N",), "f4", False, help="score of the votes of past epochs, or the largest of /probs; NaN without"),
        Item("/weight", ("N",), "f4", False, help="weight of each image in training"),
        Item("/clusters/centroid", ("K", "D"), "f4", False, help="centroids of k-means"),
        Item("/clusters/mean", ("K", "D"), "f4", False, help="means of the members"),
        Item("/clusters/size", ("K",), "i8", False, help="members of each cluster, as clustered"),
        Item("/clusters/anchor", ("K",), "i8", False, help="row of the member nearest to the mean"),
        Item("/clusters/info", (1,), "S", False, help="objective, iterations, empties: JSON"),
        Item("/pca/mean", ("d",), "f4", False, help="mean subtracted before the projection"),
        Item("/pca/components", ("d", "D"), "f4", False, help="projection, whitening folded in"),
        Item("/pca/eigenvalues", ("D",), "f8", False, help="variance along each component"),
        Item("/history/labels", ("H", "N"), "i4", False, help="labels of earlier epochs, raw ids"),
        Item("/history/epoch", ("H",), "i4", False, help="epoch of each row of the history"),
        Item("/probs", ("N", "C"), "f4", False, help="probability of each class of a classifier; NaN for a bad image"),
        Item("/pred", ("E", "N"), "i4", False, help="clusters that the models of an ensemble gave, before /labels joined them; -1 for none"),
        _STATUS,
    ),
    attrs=(_PARENT_DIGEST,),
    help="one cluster per image",
)

CHECKPOINT = FileType(
    "ucl/checkpoint",
    VERSION,
    (
        Item("/config", (1,), "S", False, help="the configuration of the run: JSON"),
        Item("/progress", (1,), "epoch i4, step i8, samples_seen i8, seed i8, world_size i4", False,
             help="how far training has come"),
        Item("/memory/bank", ("N", "P"), "f4", False,
             help="instance and online objectives: a past embedding of each image, of unit length once the image was seen"),
        Item("/memory/neighbor", ("N", "A"), "i8", False,
             help="instance objective with anchors: rows of the neighbours of each anchor, nearest first; -1 for other images"),
        Item("/memory/cluster", ("N",), "i4", False, help="online objective: the cluster that each image is in; -1 for one that cannot be used"),
        Item("/memory/centroid", ("K", "P"), "f4", False, help="online objective: centroids of the embeddings, not of unit length"),
        Item("/memory/online", (8,), "i8", False, help="online objective: its counts, in the order that the page of formats tells"),
        Item("/memory/changed", ("K",), "u1", False,
             help="online objective, refresh of changed clusters: 1 for those that gained or lost an image since the last refresh"),
        Item("/memory/next_labels", ("N",), "i4", False, help="relabel objective: labels of the next epoch; -1 in no class"),
        Item("/memory/label_counts", (2,), "i8", False,
             help="relabel objective: epochs in a row in which one class was predicted, and classes filled before the last epoch"),
        Item("/memory/targets", ("N",), "i4", False, help="relabel objective, of an unfinished epoch: the labels that it trains on"),
    ),
    prefix_items=(
        Item("/model/", ("*",), "*", False, help="tensors of the network, by state_dict key"),
        Item("/optimizer/", ("*",), "*", False, help="state of the optimizer"),
        Item("/memory/", ("*",), "*", False, help="what else is remembered: features, of the training pass; midway/, of an unfinished epoch"),
    ),
    help="every tensor the next step needs",
)  # fmt: skip

IMAGES = FileType(
    "ucl/images",
    "1.1",
    (
        _PATH_REQUIRED,
        _PARENT,
        Item("/files/path", ("F",), "S", False, help="larger files that hold the images, below the root; . is the root itself"),
        Item("/samples/file", ("N",), "i4", False, help="which of them holds each image"),
        Item("/samples/offset", ("N",), "i8", False, help="first byte of each image there, or in /encoded"),
        Item("/encoded", ("L",), "u1", False, help="the images as they were stored, one after the other"),
        Item("/pixels", ("N", "H", "W", 3), "u1", False, help="decoded images"),
        _STATUS,
        _SIZE,
        _CRC,
        _HEIGHT,
        _WIDTH,
    ),
    attrs=(
        Attr("root", "S", "folder the paths are relative to, or archive; informative"),
        Attr("path-escaping", "S", "none or percent"),
        Attr("record", "S", "form of what lies at /samples/offset: image, or raw pixels as planes:32"),
        _PARENT_DIGEST,
    ),
    help="the frozen list of images of a run",
)

EVALUATION = FileType(
    "ucl/evaluation",
    "1.1",
    (
        _PATH,
        Item("/metrics", ("m",), "name S32, value f8, low f8, high f8, n i8, protocol S64", True,
             help="one line per metric with its 95 % interval"),
        Item("/confusion", ("K", "C"), "i8", False, help="clusters x classes"),
        Item("/classes/name", ("C",), "S", False, help="names of the classes"),
        Item("/per_sample/correct", ("N",), "u1", False, enum=CORRECT, help="how the first metric counts each image, for paired tests"),
        Item("/per_sample/predicted", ("N",), "i4", False, help="predicted class, a row of /classes/name; -1 for images left out"),
        Item("/per_sample/truth", ("N",), "i4", False, help="true class, likewise; -1 where it is unknown"),
        _STATUS,
    ),
    help="metrics with their intervals",
)  # fmt: skip

_AMONG = Item("/among/path", ("R",), "S", False, help="paths of the images searched, where they are others")
_AMONG_DIGEST = Attr("among-digest", "S", "samples-digest of the images searched, where they are others")

NEIGHBORS = FileType(
    "ucl/neighbors",
    VERSION,
    (
        _PATH,
        _AMONG,
        Item("/neighbors", ("N", "A"), "i4|i8", True, help="rows of the nearest images of each image, nearest first; -1 where there are no more"),
        Item("/distances", ("N", "A"), "f4", False, help="their distances: 1 - cosine, or euclidean; NaN where there is no neighbour"),
        _STATUS,
    ),
    attrs=(
        Attr("metric", "S", "cosine or euclidean"),
        Attr("exact", "i8", "1: no nearer image was missed"),
        Attr("self-included", "i8", "1: each image was searched among all, itself too"),
        _AMONG_DIGEST,
    ),
    help="the nearest images of each image",
)  # fmt: skip

PAIRS = FileType(
    "ucl/pairs",
    VERSION,
    (
        _PATH,
        _AMONG,
        Item("/pairs", ("Q", 2), "i8", True, help="rows of two images that are alike; of one list the lower first, of two lists one of each"),
        Item("/similarity", ("Q",), "f8", False, help="the cosine of their features"),
        _STATUS,
    ),
    attrs=(Attr("threshold", "S", "least similarity listed"), _AMONG_DIGEST),
    help="pairs of images that are alike",
)  # fmt: skip

SCHEMA: dict[str, FileType] = {
    t.kind: t for t in (FEATURES, LABELS, NEIGHBORS, PAIRS, CHECKPOINT, IMAGES, EVALUATION)
}

MADE_BY: dict[str, str] = {
    "ucl/features": "ucl extract IMAGES > features.h5",
    "ucl/labels": "ucl cluster features.h5 > labels.h5",
    "ucl/neighbors": "ucl neighbors features.h5 > neighbors.h5",
    "ucl/pairs": "ucl neighbors --duplicates 0.99 features.h5 > pairs.h5",
    "ucl/checkpoint": "ucl train-epoch",
    "ucl/images": "ucl init",
    "ucl/evaluation": "ucl evaluate knn features.h5 -o report.h5",
}


def relevant_attrs() -> tuple[str, ...]:
    """Names of the root attributes that the content digest covers."""
    return tuple(a.name for a in ROOT_ATTRS if a.result_relevant)


def stream_order(kind: str, paths: list[str]) -> list[str]:
    """The order in which the data items of a file are streamed.

    Args:
        kind: a key of `SCHEMA`.
        paths: the datasets the file will hold, without provenance and integrity.

    Returns:
        Non-trailing items as the table has them, open-ended groups sorted by path, trailing items.

    Raises:
        ValueError: a path the table does not know.
    """
    ftype = SCHEMA[kind]
    rank = {item.path: i for i, item in enumerate(ftype.items)}
    unknown = [p for p in paths if ftype.item(p) is None]
    if unknown:
        raise ValueError(f"{kind} has no dataset {unknown[0]}")

    def key(path: str) -> tuple[bool, int, str]:
        item = ftype.item(path)
        return (bool(item and item.trailing), 0 if ftype.prefix_items else rank[path], path)

    return sorted(paths, key=key)


def compound_fields(code: str) -> list[tuple[str, str]]:
    """`"epoch i4, step i8"` as `[("epoch", "i4"), ("step", "i8")]`; empty for a simple dtype."""
    if " " not in code:
        return []
    return [(part.split()[0], part.split()[1]) for part in code.split(",")]
