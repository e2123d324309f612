#!/usr/bin/env python3
"""Writes products.json: products with weights of 8 and 4 bits, computed in exact fractions and rounded by hand.

Follows docs/numerics.md alone ("Products with weights of 8 and 4 bits") and the layout in tensor/int_rows.h. Needs
nothing but Python. Floats are the bits of FP32 numbers.
"""
import json
import random
import struct
from fractions import Fraction
from pathlib import Path


def bits(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]


def of_bits(pattern: int) -> float:
    return struct.unpack("<f", struct.pack("<I", pattern))[0]


def nearest_even(value: Fraction) -> int:
    low = value.numerator // value.denominator
    rest = value - low
    return low + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1))


def round32(value: Fraction) -> float:
    """The normal FP32 number nearest to the value, ties to even."""
    if value == 0:
        return 0.0
    size, exponent = abs(value), 0
    while size >= 2 ** 24:
        size, exponent = size / 2, exponent + 1
    while size < 2 ** 23:
        size, exponent = size * 2, exponent - 1
    assert -140 < exponent < 100
    return float(nearest_even(size) * Fraction(2) ** exponent * (1 if value > 0 else -1))


def quantize(block):
    amax = max(abs(x) for x in block)
    scale = 1.0 if amax == 0 else round32(Fraction(amax) / 127)
    # The division is rounded to FP32 before the code is.
    return scale, [nearest_even(Fraction(round32(Fraction(x) / Fraction(scale)))) for x in block]


def product(row, integers, scales):
    run = 0.0
    for block, weight_scale in enumerate(scales):
        begin, end = 128 * block, min(128 * (block + 1), len(row))
        scale, codes = quantize(row[begin:end])
        part = sum(code * w for code, w in zip(codes, integers[begin:end]))
        run = round32(Fraction(round32(Fraction(scale) * Fraction(weight_scale))) * part + Fraction(run))
    return run


def row_of_8(rng, columns):
    codes = [rng.randint(-127, 127) for _ in range(columns)]
    return [code & 255 for code in codes], codes


def row_of_4(rng, columns):
    codes = [rng.randint(0, 15) for _ in range(columns)]
    groups = [(rng.randint(1, 15), rng.randint(0, 15)) for _ in range(columns // 32)]
    packed = []
    for g in range(columns // 32):
        own = codes[32 * g : 32 * (g + 1)]
        packed += [own[j] | own[16 + j] << 4 for j in range(16)]
    packed += [s | z << 4 for s, z in groups]
    return packed, [groups[i // 32][0] * (2 * q - 7 - groups[i // 32][1]) for i, q in enumerate(codes)]


def main():
    rng, columns, rows = random.Random(5), 288, 5
    x = [[of_bits(bits(rng.gauss(0, 1) * 10 ** rng.randint(-2, 2))) for _ in range(columns)] for _ in range(3)]
    x[1][:128] = [0.0] * 128
    cases = {"columns": columns, "x": [[bits(v) for v in row] for row in x]}
    for name, make in (("8bit", row_of_8), ("4bit", row_of_4)):
        weights = [make(rng, columns) for _ in range(rows)]
        scales = [[of_bits(bits(rng.uniform(1e-4, 1e-2))) for _ in range(3)] for _ in range(rows)]
        cases[name] = {
            "bytes": [w[0] for w in weights],
            "scales": [[bits(s) for s in row] for row in scales],
            "y": [[bits(product(row, w[1], s)) for w, s in zip(weights, scales)] for row in x],
        }
    Path(__file__).with_name("products.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


main()
