#!/usr/bin/env python3
"""Writes the fixtures beside this script with the Python `safetensors` package (pip install safetensors torch), and,
given a folder of files that moray wrote, checks that the package reads the same values from them.

    make.py                 write python.safetensors and sharded/
    make.py check FOLDER    check FOLDER/written.safetensors (what safetensors_test writes with MORAY_KEEP=FOLDER)
"""
import json
import pathlib
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent


def ramp(shape, dtype):
    """Element i is (i * 37 % 101 - 50) / 8: exact in every floating type used."""
    count = int(torch.Size(shape).numel())
    return ((torch.arange(count) * 37 % 101 - 50).double() / 8).reshape(shape).to(dtype)


def write():
    save_file(
        {
            "f32": ramp((3, 5), torch.float32),
            "f64": ramp((7,), torch.float64),
            "bf16": ramp((2, 3, 4), torch.bfloat16),
            "f16": ramp((4,), torch.float16),
            "f8": ramp((4,), torch.float8_e4m3fn),
            "i32": torch.arange(-3, 3, dtype=torch.int32),
            "i64": torch.arange(5),
            "u8": torch.arange(9, dtype=torch.uint8),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros((0, 4)),
            "ünï.weight": ramp((1, 1), torch.float32),
        },
        HERE / "python.safetensors",
        metadata={"format": "pt", "who": "python"},
    )
    sharded = HERE / "sharded"
    sharded.mkdir(exist_ok=True)
    shards = {
        "model-00001-of-00002.safetensors": {"a": ramp((2, 2), torch.float32), "c": ramp((3,), torch.bfloat16)},
        "model-00002-of-00002.safetensors": {"b": ramp((4,), torch.float32)},
    }
    for name, tensors in shards.items():
        save_file(tensors, sharded / name, metadata={"format": "pt"})
    weight_map = {key: name for name, tensors in shards.items() for key in tensors}
    index = {"metadata": {"total_size": 38}, "weight_map": weight_map}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def check(folder):
    path = pathlib.Path(folder) / "written.safetensors"
    got = load_file(path)
    want = {
        "f32": ramp((3, 5), torch.float32),
        "f64": ramp((7,), torch.float64),
        "bf16": ramp((2, 3, 4), torch.bfloat16),
        "i32": torch.arange(-3, 3, dtype=torch.int32),
        "narrowed": (torch.arange(1000).double() / 7).float().bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros((0, 4)),
    }
    assert got.keys() == want.keys(), got.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape, name
        assert torch.equal(got[name], tensor), name
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    print("python reads what moray wrote")


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(sys.argv[2])
    else:
        write()
