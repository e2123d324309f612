"""Reads an event file written by moray with the real TensorBoard and compares every scalar with metrics.jsonl.

    python check.py RUN_FOLDER

Result with TensorBoard 2.21.0 on the two runs of tests/sample_run.cc, one of them cut back and resumed: 500 steps and
14 tags each, every step once, every value equal as float32.
"""
import json
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def expected_scalars(line):
    yield "loss/train", line["loss"]
    for depth, loss in enumerate(line["mtp_loss"], 1):
        yield f"loss/mtp_{depth}", loss
    if "validation_loss" in line:
        yield "loss/validation", line["validation_loss"]
    yield "loss/balance", line["balance_loss"]
    for layer, balance in enumerate(line["balance"]):
        yield f"balance/layer_{layer}", balance
    for name in ("grad_norm", "learning_rate", "skipped_steps"):
        yield f"optimizer/{name}", line[name]
    yield "speed/tokens_per_second", line["tokens_per_second"]
    yield "speed/peak_memory_gb", line["peak_memory_bytes"] / 1e9


def main():
    run = pathlib.Path(sys.argv[1])
    expected = {}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for tag, value in expected_scalars(line):
            expected.setdefault(tag, []).append((line["step"], float32(value)))

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    assert sorted(tags) == sorted(expected), (tags, sorted(expected))
    for tag in tags:
        got = [(event.step, event.value) for event in events.Scalars(tag)]
        assert got == expected[tag], f"{tag}: {got[:3]} ... instead of {expected[tag][:3]} ..."
    print(f"{len(lines)} steps, {len(tags)} tags: equal")


main()
