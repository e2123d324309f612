#!/usr/bin/env python3
"""Relative loss error of runs against a base run, both smoothed by an exponential average of 0.9.

loss_error.py BASE RUN...: for every run the greatest error from the end of warm-up (the first 5% of the steps) on,
the mean of magnitudes, and the last one. Steps of equal number are compared.
"""
import json
import pathlib
import sys


def smoothed(run):
    average, losses = None, {}
    for line in (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        average = row["loss"] if average is None else 0.9 * average + 0.1 * row["loss"]
        losses[row["step"]] = average
    return losses


def main():
    base = smoothed(sys.argv[1])
    print(f"{'run':<28} {'steps':>6} {'greatest':>10} {'mean':>10} {'last':>10}   last loss")
    for run in sys.argv[2:]:
        losses = smoothed(run)
        steps = sorted(step for step in losses if step in base and step > 0.05 * max(base))
        if not steps:
            continue
        errors = [losses[step] / base[step] - 1 for step in steps]
        mean = sum(abs(error) for error in errors) / len(errors)
        print(f"{pathlib.Path(run).name:<28} {len(steps):>6} {max(errors, key=abs):>10.4%} {mean:>10.4%} "
              f"{errors[-1]:>10.4%}   {losses[steps[-1]]:.4f}")


if __name__ == "__main__":
    main()
