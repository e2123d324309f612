"""Writes vectors.jsonl: what Hugging Face `tokenizers` encodes with the tokenizer files of this folder.

Usage: python make_vectors.py   (pip install tokenizers; made with 0.23.3)

moray_tokenizer.json is moray's own training on corpus.txt (src/data/tokenizer_golden_test.cc holds it to the byte);
this script checks that Hugging Face's trainer finds the same merges. gpt2_style.json is trained here, with merges
written as strings, as older files have them. corpus.txt: the head of tinyshakespeare (public domain) and lines of
our own. Characters newer than Unicode 14 are left out: PCRE2 10.42 does not know them.
"""

import json
import os
import random
import unicodedata

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

FOLDER = os.path.dirname(os.path.abspath(__file__))


def path(name):
    return os.path.join(FOLDER, name)


def read(name):
    with open(path(name), newline="", encoding="utf-8") as file:
        return file.read()


def train(pre_tokenizer, vocab_size, special_tokens):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([read("corpus.txt")], trainer)
    return json.loads(tokenizer.to_str())


def check_training():
    ours = json.loads(read("moray_tokenizer.json"))
    splits = [p["pattern"]["Regex"] for p in ours["pre_tokenizer"]["pretokenizers"] if p["type"] == "Split"]
    pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), "isolated", False) for split in splits]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    special = [token["content"] for token in ours["added_tokens"]]
    theirs = train(pre_tokenizer, len(ours["model"]["vocab"]) - 7, special[:3])
    assert theirs["model"]["merges"] == ours["model"]["merges"], "the trainers disagree"


def write_gpt2_style():
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split("::", "merged_with_previous", False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    data = train(pre_tokenizer, 420, ["<|endoftext|>"])
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    with open(path("gpt2_style.json"), "w", encoding="utf-8", newline="\n") as file:
        json.dump(data, file, ensure_ascii=False, indent=0)
        file.write("\n")


def random_text(rng, special_tokens):
    ranges = [(0x20, 0x7F), (0x20, 0x7F), (0, 0x250), (0x2000, 0x2070), (0x3000, 0x9FFF), (0x1F300, 0x1FAFF)]
    parts = []
    for _ in range(rng.randint(1, 14)):
        kind = rng.random()
        if kind < 0.25:
            parts.append(rng.choice(["\n", "\r\n", " ", "   \n", ") \n", "\t", "!\n\n", "\u00a0", "\u180e", "12345", "::"]))
        elif kind < 0.35:
            parts.append(rng.choice(special_tokens))
        elif kind < 0.5:
            parts.append(rng.choice([" hello", "def f(x):\n    return", " thou", "'ll", "ROMEO:\n", "数字の", "ｆｕｌｌ"]))
        else:
            low, high = rng.choice(ranges + [(1, 0x10FFFF)])
            text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5)))
            parts.append("".join(c for c in text if unicodedata.category(c) not in ("Cn", "Cs")))
    return "".join(parts)


def main():
    assert unicodedata.unidata_version.startswith("14."), "use a Python with Unicode 14 (3.11)"
    check_training()
    write_gpt2_style()
    rng = random.Random(1)
    with open(path("vectors.jsonl"), "w", encoding="utf-8", newline="\n") as file:
        for name in ["moray_tokenizer.json", "gpt2_style.json"]:
            tokenizer = Tokenizer.from_file(path(name))
            special = [token["content"] for token in json.loads(read(name))["added_tokens"]]
            corpus = read("corpus.txt")
            texts = [corpus[i : i + 400] for i in range(0, len(corpus), len(corpus) // 12)]
            texts += [random_text(rng, special) for _ in range(150)]
            for text in texts:
                ids = tokenizer.encode(text, add_special_tokens=False).ids
                file.write(json.dumps({"tokenizer": name, "text": text, "ids": ids}, ensure_ascii=False) + "\n")


main()
