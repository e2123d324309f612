"""The computing steps of DualPipe and DualPipeV as the published description words them, eight parts a rank.

Written from the description alone (no code of the engine, no code of others), one string a rank:
F3 forward, B3 whole backward, b3 backward of inputs only, W3 gradient of weights, F5&B2 an overlapped pair;
numbers are micro-batches, a prime marks the second of the rank's two stages in DualPipeV.

    python3 make_vectors.py > vectors.json
"""

import json


def parts(h, half, main_rounds):
    """The eight parts for a rank at depth h, seen from its own end: (what, direction[, direction going back])."""
    outside = half - h - 1
    yield from [("F", 0)] * (2 * outside)  # 1
    yield from [("F", 0), ("F", 1)] * (h + 1)  # 2
    yield from [("b", 1), ("W",), ("F", 1)] * outside  # 3
    for i in range(main_rounds):  # 4
        if i == 0 and outside == 0:  # the middle does not overlap the first pair
            yield from [("F", 0), ("B", 1)]
        else:
            yield ("&", 0, 1)
        yield ("&", 1, 0)
    yield from [("B", 1), ("&", 1, 0)] * outside  # 5
    switch = (h + 1) // 2  # 6: whole before, inputs only from here on
    for i in range(h + 1):
        odd = h % 2 == 1
        yield ("b" if i > switch or (i == switch and odd) else "B", 1)
        yield ("b" if i >= switch else "B", 0)
    yield from [("W",), ("b", 0)] * outside  # 7
    yield from [("W",)] * (h + 1)  # 8


def spell(sequence, name):
    """Numbers the steps: every direction forwards and backwards in order, W first in, first out."""
    forwards, backwards, waiting, words = [0, 0], [0, 0], [], []

    def forward(d):
        forwards[d] += 1
        return name(d, forwards[d] - 1)

    def backward(d):
        backwards[d] += 1
        return name(d, backwards[d] - 1)

    for what, *directions in sequence:
        if what == "F":
            words.append("F" + forward(directions[0]))
        elif what == "B":
            words.append("B" + backward(directions[0]))
        elif what == "b":
            waiting.append(backward(directions[0]))
            words.append("b" + waiting[-1])
        elif what == "W":
            words.append("W" + waiting.pop(0))
        else:
            words.append("F" + forward(directions[0]) + "&B" + backward(directions[1]))
    assert not waiting and forwards == backwards
    return " ".join(words)


def dualpipe(rank, ranks, micro_batches):
    h = min(rank, ranks - 1 - rank)
    far = rank >= ranks // 2  # its near end is the last rank, where the second half of the micro-batches enters

    def name(direction, index):
        return str(index + (micro_batches // 2 if (direction == 1) != far else 0))

    return spell(parts(h, ranks // 2, micro_batches // 2 - ranks + h + 1), name)


def dualpipe_v(rank, ranks, micro_batches):
    def name(direction, index):
        return str(index) + ("'" if direction == 1 else "")

    return spell(parts(rank, ranks, micro_batches - 2 * ranks + rank + 1), name)


def vectors():
    for ranks in range(2, 17, 2):
        for micro_batches in sorted({2 * ranks, 2 * ranks + 2, 3 * ranks + 4}):
            yield "dualpipe", ranks, micro_batches, dualpipe
    for ranks in range(1, 9):
        for micro_batches in sorted({2 * ranks, 2 * ranks + 1, 3 * ranks + 2}):
            yield "dualpipev", ranks, micro_batches, dualpipe_v


if __name__ == "__main__":
    print(json.dumps([{"schedule": schedule, "ranks": ranks, "micro_batches": m,
                       "steps": [function(rank, ranks, m) for rank in range(ranks)]}
                      for schedule, ranks, m, function in vectors()], indent=0))
