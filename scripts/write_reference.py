#!/usr/bin/env python3
"""Reference outputs of a model by Hugging Face transformers, for `moray verify`.

    pip install torch transformers==5.24.0 safetensors
    scripts/write_reference.py MODEL_FOLDER reference.json
    moray verify MODEL_FOLDER --reference reference.json

Prompts are continued greedily, token by token; each token's five likeliest are written with their log
probabilities, and a hash of the experts of each MoE layer. --dtype float32 (the default) needs four bytes of
memory a parameter; with bfloat16 activations are rounded all along the way, so the tolerance is wider and
experts are left out, of which near ties fall differently. What the file holds is in docs/inference.md.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = {
    "prose": "The history of the lighthouse begins long before electricity. On the coast of",
    "code": "def binary_search(items, target):\n    \"\"\"Index of target in sorted items, or -1.\"\"\"\n",
    "numbers": "12 + 35 = 47\n108 + 91 = 199\n64 + 77 = ",
    "chinese": "北京是中国的首都，它的历史可以追溯到",
}
CONFIG_KEYS = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "n_routed_experts",
               "num_experts_per_tok", "num_attention_heads", "kv_lora_rank", "q_lora_rank")
TOLERANCE = {"float32": 0.005, "bfloat16": 0.15}
TOP = 5


def experts_hash(ids):
    """FNV-1a, 64 bits, over the ids as little-endian int32."""
    value = 0xCBF29CE484222325
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


class Experts:
    """What each MoE layer's router chose, call after call: ids ascending for each token."""

    def __init__(self, model, per_token):
        self.chosen = []
        for name, module in model.named_modules():
            if name.endswith("mlp.gate"):
                chosen = []
                self.chosen.append(chosen)
                module.register_forward_hook(lambda _m, _i, out, chosen=chosen: self.keep(out, per_token, chosen))

    @staticmethod
    def keep(output, per_token, chosen):
        ids = [x for x in output if x.dtype in (torch.int32, torch.int64) and x.shape[-1] == per_token]
        if len(ids) != 1:
            raise SystemExit("this transformers version's router does not return the experts it chose; "
                             "use --no-experts")
        chosen.extend(ids[0].reshape(-1, per_token).sort(dim=-1).values.flatten().tolist())

    def reset(self):
        for chosen in self.chosen:
            chosen.clear()


def run_case(model, name, prompt, count, experts):
    """Whole sequences again for every token: slow, and nothing depends on a cache."""
    tokens, top = [], []
    with torch.no_grad():
        for _ in range(count):
            if experts:
                experts.reset()
            logits = model(torch.tensor([prompt + tokens]), use_cache=False).logits[0, -1].double()
            best = logits.log_softmax(dim=-1).topk(TOP)
            tokens.append(int(best.indices[0]))
            top.append([[int(i), min(0.0, float(f"{p:.7g}"))] for i, p in zip(best.indices, best.values.tolist())])
    case = {"name": name, "prompt": prompt, "greedy": tokens, "top": top}
    if experts:
        case["experts"] = [experts_hash(chosen) for chosen in experts.chosen]
    return case


def prompts_of(args):
    if args.prompt_ids:
        return [("ids", [int(i) for i in args.prompt_ids.split(",")])]
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    return [(name, tokenizer(text)["input_ids"]) for name, text in PROMPTS.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("output", type=Path, help="file to write")
    parser.add_argument("--name", help="of the model, as ORG/NAME (default: the folder's)")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--tokens", type=int, default=24, help="to continue each prompt by")
    parser.add_argument("--prompt-ids", help="one prompt of token ids, 1,2,3, instead of the texts")
    parser.add_argument("--no-experts", action="store_true")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code of the folder")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), experts_implementation="eager", attn_implementation="eager",
        trust_remote_code=args.trust_remote_code).eval()
    config = json.loads((args.model / "config.json").read_text())
    with_experts = args.dtype == "float32" and not args.no_experts
    experts = Experts(model, config["num_experts_per_tok"]) if with_experts else None
    reference = {
        "format": "moray reference 1",
        "model": args.name or args.model.name,
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, {args.dtype}",
        "config": {key: config[key] for key in CONFIG_KEYS if key in config},
        "tolerance": TOLERANCE[args.dtype],
        "cases": [run_case(model, name, ids, args.tokens, experts) for name, ids in prompts_of(args)],
    }
    args.output.write_text(json.dumps(reference, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
