#!/usr/bin/env python3
"""Writes model.safetensors beside this script (pip install safetensors torch numpy): FP8 weights in the layout of
DeepSeek-V3's folders, each with the BF16 numbers that the published conversion makes of it (`expected.NAME`).

    make.py                 write the fixture
    make.py check FOLDER    check the FP8 folder FOLDER that moray wrote, with state/master.safetensors beside it:
                            every weight dequantized is within half an E4M3 step of its master weight, and the
                            scales are those of amax / 448 (rounded up to powers of two under scale_fmt ue8m0)
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
BLOCK = 128


def spread(scales, shape):
    """Each block's scale for each of its elements."""
    return scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[: shape[0], : shape[1]]


def dequantized(codes, scales):
    return codes.float() * spread(scales, codes.shape)


def block_amax(x):
    rows, columns = [-(-n // BLOCK) for n in x.shape]
    padded = torch.zeros(rows * BLOCK, columns * BLOCK)
    padded[: x.shape[0], : x.shape[1]] = x.abs()
    return padded.reshape(rows, BLOCK, columns, BLOCK).amax((1, 3))


def write():
    torch.manual_seed(0)
    tensors = {}
    shapes = {"edge": (130, 140), "small": (3, 5), "exact": (8, 256)}
    for name, shape in shapes.items():
        x = torch.randn(shape) * 0.02
        scales = block_amax(x) / 448
        if name == "exact":
            scales = 2.0 ** torch.ceil(torch.log2(scales))
        codes = (x / spread(scales, shape)).to(torch.float8_e4m3fn)
        tensors[f"{name}_proj.weight"] = codes
        tensors[f"{name}_proj.weight_scale_inv"] = scales
        tensors[f"expected.{name}_proj.weight"] = dequantized(codes, scales).bfloat16()
    save_file(tensors, HERE / "model.safetensors", metadata={"format": "pt"})


def check(folder):
    folder = pathlib.Path(folder)
    model = load_file(folder / "model.safetensors")
    master = load_file(folder.parent / "state" / "master.safetensors")
    powers = json.loads((folder / "config.json").read_text())["quantization_config"].get("scale_fmt") == "ue8m0"
    checked = 0
    for name, stored in model.items():
        if name.endswith("_scale_inv") or name not in master:
            continue
        if stored.dtype != torch.float8_e4m3fn:
            assert torch.equal(stored, master[name].to(stored.dtype)), name
            continue
        scales = model[name + "_scale_inv"]
        want = block_amax(master[name]) / 448
        if powers:
            mantissa, exponent = torch.frexp(want)
            want = torch.ldexp(torch.ones_like(want), exponent - (mantissa == 0.5).int())
        assert torch.equal(scales, want), name
        error = (dequantized(stored, scales) - master[name]).abs() / spread(scales, stored.shape)
        magnitude = stored.float().abs().clamp(min=2.0**-6)
        assert (error <= 2.0 ** torch.floor(torch.log2(magnitude)) * 2.0**-4 * 1.0001).all(), name
        checked += 1
    assert checked > 0
    print(f"{checked} FP8 weights lie within half a step of their master weights")


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(sys.argv[2])
    else:
        write()
