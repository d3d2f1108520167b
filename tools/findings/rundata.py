"""Reads what sightline left: run.json and tensors.safetensors of a run directory."""

import json
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pocket"))
import scoring  # noqa: E402

DTYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "u1"}


def read_tensors(path):
    """{name: array} of a safetensors file: u64 length, JSON header, data."""
    with open(path, "rb") as file:
        data = file.read()
    length, = struct.unpack_from("<Q", data)
    arrays = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__" or entry["dtype"] not in DTYPES:
            continue
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(data[first:last], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


class Scene:
    """A question (a line of scenes.jsonl) with the results of all runs on it."""

    def __init__(self, folder, record):
        self.record, self.unit = record, record["unit"]
        self.analyses, self.tensor, self.root = {}, {}, None
        for run in sorted(p for p in folder.iterdir() if (p / "run.json").exists()):
            with open(run / "run.json") as file:
                root = json.load(file)
            # A second run of an analysis (heads-block) keeps its folder's name in front.
            mark = "" if run.name in ("trace", *root["analyses"]) else run.name + "/"
            self.analyses.update({mark + name: said for name, said in root["analyses"].items()})
            self.tensor.update({mark + name: value for name, value in read_tensors(run / "tensors.safetensors").items()})
            self.root = self.root or root
        self.answer = self.root["prompt"]["answer"].strip()
        self.score = scoring.score(record, self.answer)
        self.right = self.score == 1

    @property
    def look(self):
        return self.record["look"]


def right(folder, record):
    """Whether a run directory's answer is the right one."""
    with open(folder / "run.json") as file:
        return scoring.score(record, json.load(file)["prompt"]["answer"].strip()) == 1


def read_scenes(folder, records):
    """The scenes whose runs are there, in the order of the records."""
    return [Scene(folder / r["id"], r) for r in records if (folder / r["id"]).is_dir()]
