"""Tiny random checkpoints of the DeepSeek families, with what an independent implementation computes from them.

    python3.11 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 numpy
    venv/bin/python tests/golden/inference/write_golden.py [FAMILY-FORMAT...]

Writes FAMILY-FORMAT/{config.json, model*.safetensors, expected.json} beside itself, for every family and weight
format or for those named. The computation is that of ../train/model.py: Hugging Face's attention, routers and MLPs, in float64
with the authors' formulas (../train/plain.py) where it matters, from weights exactly as the files hold them.
Seeds are searched until every greedy choice has a gap of at least ten times the tolerance, and every expert
chosen is clearly ahead of the first one left out.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "train"))
import plain  # noqa: E402
from model import LanguageModel  # noqa: E402

YARN = {"type": "yarn", "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
V2 = {"model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "scoring_func": "softmax",
      "norm_topk_prob": False}
V3 = {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "scoring_func": "sigmoid",
      "norm_topk_prob": True, "topk_method": "noaux_tc"}
COMMON = {"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "moe_layer_freq": 1,
          "tie_word_embeddings": False, "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 1,
          "max_position_embeddings": 256, "rope_theta": 10000, "num_nextn_predict_layers": 0}

# Every shape differs in what could be confused: head widths, latent ranks, experts.
FAMILIES = {
    "v2-lite": {**COMMON, **V2, "topk_method": "greedy", "vocab_size": 160, "hidden_size": 48,
                "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 3,
                "first_k_dense_replace": 1, "num_attention_heads": 3, "n_routed_experts": 8,
                "num_experts_per_tok": 3, "n_shared_experts": 2, "n_group": 1, "topk_group": 1,
                "routed_scaling_factor": 1.0, "q_lora_rank": None, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 8, "v_head_dim": 12, "rms_norm_eps": 1e-6,
                "rope_scaling": {**YARN, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                                 "original_max_position_embeddings": 64}},
    "v2": {**COMMON, **V2, "topk_method": "group_limited_greedy", "vocab_size": 144, "hidden_size": 40,
           "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 2,
           "first_k_dense_replace": 1, "num_attention_heads": 4, "n_routed_experts": 16,
           "num_experts_per_tok": 4, "n_shared_experts": 2, "n_group": 4, "topk_group": 2,
           "routed_scaling_factor": 16.0, "q_lora_rank": 24, "kv_lora_rank": 20, "qk_nope_head_dim": 12,
           "qk_rope_head_dim": 8, "v_head_dim": 16, "rms_norm_eps": 1e-6,
           "rope_scaling": {**YARN, "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.707,
                            "original_max_position_embeddings": 64}},
    "v3": {**COMMON, **V3, "vocab_size": 152, "hidden_size": 36, "intermediate_size": 72,
           "moe_intermediate_size": 14, "num_hidden_layers": 2, "first_k_dense_replace": 1,
           "num_attention_heads": 4, "n_routed_experts": 16, "num_experts_per_tok": 4, "n_shared_experts": 1,
           "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "q_lora_rank": 32, "kv_lora_rank": 28,
           "qk_nope_head_dim": 16, "qk_rope_head_dim": 12, "v_head_dim": 20, "rms_norm_eps": 1e-6,
           "num_nextn_predict_layers": 1,
           "rope_scaling": {**YARN, "factor": 40, "original_max_position_embeddings": 64}},
    "moonlight": {**COMMON, **V3, "vocab_size": 136, "hidden_size": 44, "intermediate_size": 60,
                  "moe_intermediate_size": 18, "num_hidden_layers": 2, "first_k_dense_replace": 1,
                  "num_attention_heads": 2, "n_routed_experts": 12, "num_experts_per_tok": 5,
                  "n_shared_experts": 2, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446,
                  "q_lora_rank": None, "kv_lora_rank": 36, "qk_nope_head_dim": 20, "qk_rope_head_dim": 8,
                  "v_head_dim": 16, "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "rope_scaling": None},
    "kimi-k2": {**COMMON, **V3, "model_type": "kimi_k2", "vocab_size": 168, "hidden_size": 132,
                "intermediate_size": 150, "moe_intermediate_size": 12, "num_hidden_layers": 2,
                "first_k_dense_replace": 1, "num_attention_heads": 2, "n_routed_experts": 20,
                "num_experts_per_tok": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
                "routed_scaling_factor": 2.827, "q_lora_rank": 40, "kv_lora_rank": 24, "qk_nope_head_dim": 24,
                "qk_rope_head_dim": 16, "v_head_dim": 8, "rms_norm_eps": 1e-5, "rope_theta": 50000.0,
                "rope_scaling": {**YARN, "factor": 64, "beta_fast": 1, "beta_slow": 1,
                                 "original_max_position_embeddings": 64}},
}
# Weight formats each family is written in, and the tolerance relative to the largest logit.
FORMATS = {family: ["f32", "bf16", "fp8"] for family in FAMILIES}
# Kimi-K2 is wide for its FP8 blocks; the other formats have nothing from that but large files.
NARROW = {"kimi-k2-f32": {"hidden_size": 60, "intermediate_size": 84},
          "kimi-k2-bf16": {"hidden_size": 60, "intermediate_size": 84}}
# Where embeddings and latents are so small (of the size of these families' initializer_range) that the eps of their
# norms counts: taking rms_norm_eps, 1e-5, and the 1e-6 of latents for each other is beyond the tolerance.
SMALL = {"moonlight-f32", "kimi-k2-f32"}
SMALL_SCALE = 0.02
# Seeds to begin with, past those that a narrow latent cache moves far, as where it makes another expert the chosen one.
FIRST_SEED = {"v2-fp8": 3, "kimi-k2-f32": 4, "kimi-k2-bf16": 3}
TOLERANCE = {"f32": 1e-4, "bf16": 2e-3, "fp8": 2e-3}
PROMPT, GENERATED = 24, 12
LEAST_EXPERT_GAP = 2e-4  # between the last chosen and the first left out, in biased score


def patch_reference():
    """What plain.py leaves out for the training goldens' two shapes: equal betas, and V2's groups."""
    frequencies, route = plain.yarn_frequencies, plain.route

    def any_frequencies(shape, dtype):
        if shape["rope_scaling"]["beta_fast"] != shape["rope_scaling"]["beta_slow"]:
            return frequencies(shape, dtype)
        return equal_beta_frequencies(shape, dtype)

    def equal_beta_frequencies(shape, dtype):
        scaling, dim, base = shape["rope_scaling"], shape["qk_rope_head_dim"], shape["rope_theta"]
        at = dim * math.log(scaling["original_max_position_embeddings"] / (scaling["beta_fast"] * 2 * math.pi))
        at /= 2 * math.log(base)
        low, high = max(math.floor(at), 0), min(math.ceil(at), dim - 1)
        if low == high:
            high += 0.001
        pair = torch.arange(dim // 2, dtype=dtype)
        kept = base ** (-2 * pair / dim)
        stretch = ((pair - low) / (high - low)).clamp(0, 1)
        return kept * (1 - stretch) + kept / scaling["factor"] * stretch

    def any_route(gate, x_Nd, shape):
        if shape["topk_method"] != "group_limited_greedy":
            return route(gate, x_Nd, shape)
        logits = x_Nd @ gate.weight.T
        scores = logits.softmax(dim=-1)
        grouped = scores.view(len(scores), shape["n_group"], -1)
        best = grouped.max(dim=-1).values.topk(shape["topk_group"]).indices
        allowed = torch.zeros(len(scores), shape["n_group"], dtype=torch.bool).scatter_(1, best, True)
        masked = grouped.masked_fill(~allowed[:, :, None], float("-inf")).view_as(scores)
        chosen = masked.topk(shape["num_experts_per_tok"]).indices
        return logits, scores.gather(1, chosen) * shape["routed_scaling_factor"], chosen

    plain.yarn_frequencies, plain.route = any_frequencies, any_route


def make_model(shape):
    """Without YaRN the shape gets one of factor 1, which changes nothing: plain.py reads rope_scaling always."""
    hf = {**shape, "model_type": "deepseek_v2" if shape["model_type"] == "deepseek_v2" else "deepseek_v3"}
    if shape["rope_scaling"] is None:
        hf["rope_scaling"] = {**YARN, "factor": 1, "original_max_position_embeddings": 4096}
    return LanguageModel(hf, by_hand=True)


def make_weights(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in make_model(shape).state_dict().items():
        normal = torch.empty(tensor.shape).normal_(0, 1, generator=generator)
        if name.endswith("e_score_correction_bias"):
            weights[name] = -0.6 + 0.1 * normal  # biased scores are often negative
        elif tensor.dim() == 1:
            weights[name] = 1 + 0.2 * normal
        elif name.endswith("mlp.gate.weight"):
            weights[name] = 0.4 * normal
        elif name in ("lm_head.weight", "model.embed_tokens.weight"):
            weights[name] = normal
        else:
            weights[name] = normal * 1.2 / tensor.shape[1] ** 0.5
    return weights


def make_small(weights, shape):
    """What the norms of the first block and of the latents see. Rotary keys are no latents: they have no norm."""
    weights["model.embed_tokens.weight"] *= SMALL_SCALE
    for name, tensor in weights.items():
        if "q_a_proj" in name:
            tensor *= SMALL_SCALE
        elif "kv_a_proj_with_mqa" in name:
            tensor[: shape["kv_lora_rank"]] *= SMALL_SCALE
    return weights


def is_fp8(name, tensor):
    return tensor.dim() == 2 and ".layers." in name and not any(
        part in name for part in ("mlp.gate.weight", "eh_proj", "norm"))


def store(weights, form):
    """What the file holds, and the float64 values it stands for."""
    stored, values = {}, {}
    for name, tensor in weights.items():
        if form == "f32":
            stored[name] = tensor
        elif form == "fp8" and is_fp8(name, tensor):
            rows, columns = tensor.shape
            codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
            scales = torch.empty((rows + 127) // 128, (columns + 127) // 128)
            value = torch.empty(rows, columns)
            for i in range(scales.shape[0]):
                for j in range(scales.shape[1]):
                    at = np.s_[i * 128:(i + 1) * 128, j * 128:(j + 1) * 128]
                    scales[i, j] = tensor[at].abs().max() / 448
                    codes[at] = (tensor[at] / scales[i, j]).to(torch.float8_e4m3fn)
                    value[at] = codes[at].float() * scales[i, j]
            stored[name], stored[name + "_scale_inv"] = codes, scales
            values[name] = value.double()
            continue
        elif name.endswith("e_score_correction_bias"):
            stored[name] = tensor
        else:
            stored[name] = tensor.bfloat16()
        values[name] = stored[name].double()
    return stored, values


class Watch:
    """The smallest lead of a chosen expert over one left out, over all routers since reset()."""

    def __init__(self):
        self.least, route = float("inf"), plain.route
        self.chosen = []

        def watched(gate, x_Nd, shape):
            logits, gates, chosen = route(gate, x_Nd, shape)
            scores = plain.expert_scores(logits, shape)
            if hasattr(gate, "e_score_correction_bias"):
                scores = scores + gate.e_score_correction_bias
            inside = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)
            groups = shape["n_group"]
            # Leads inside the groups that hold a chosen expert; between groups, of their scores.
            of_group = scores.view(len(scores), groups, -1)
            taken = inside.view_as(of_group).any(dim=-1)
            last = scores.masked_fill(~inside, float("inf")).min(dim=-1).values
            rivals = scores.masked_fill(inside | ~taken.repeat_interleave(of_group.shape[-1], dim=1), -9.0)
            self.least = min(self.least, (last - rivals.max(dim=-1).values).min().item())
            if groups > 1:
                score = (of_group.topk(2).values.sum(-1) if hasattr(gate, "e_score_correction_bias")
                         else of_group.max(-1).values).sort(descending=True).values
                k = shape["topk_group"]
                self.least = min(self.least, (score[:, k - 1] - score[:, k]).min().item())
            self.chosen.append(chosen.sort(dim=-1).values.tolist())
            return logits, gates, chosen

        plain.route = watched

    def reset(self):
        self.least, self.chosen = float("inf"), []


def run(model, tokens, shape):
    """Logits [T, V] of each depth for a whole sequence. MTP depth k sees tokens shifted by k, the last repeated."""
    padded = torch.tensor([tokens + [tokens[-1]] * (1 + model.mtp_depth)])
    with torch.no_grad():
        logits, _ = model(padded)
    return [of_depth[0] for of_depth in logits]


def expectation(shape, values, tolerance, watch, prompt):
    model = make_model(shape).double()
    model.load_state_dict(values)
    watch.reset()
    tokens, gap = list(prompt), float("inf")
    for _ in range(GENERATED):
        logits = run(model, tokens, shape)[0][-1]
        best = logits.topk(2).values
        gap = min(gap, ((best[0] - best[1]) / logits.abs().max()).item())
        if gap < 10 * tolerance or watch.least < LEAST_EXPERT_GAP:
            return None
        tokens.append(int(logits.argmax()))
    watch.reset()
    of_depths = run(model, tokens, shape)
    if watch.least < LEAST_EXPERT_GAP:
        return None
    rounded = lambda x: [[float(f"{v:.7g}") for v in row] for row in x.tolist()]  # noqa: E731
    expected = {"tolerance": tolerance, "prompt": prompt, "greedy": tokens[len(prompt):], "least_gap": gap,
                "experts": watch.chosen, "logits": rounded(of_depths[0][::5])}
    if len(of_depths) > 1:
        expected["mtp_logits"] = rounded(of_depths[1][: len(tokens) - 1 : 5])
    return expected


def write(name, form, shape, stored, expected):
    folder = HERE / f"{name}-{form}"
    folder.mkdir(exist_ok=True)
    config = dict(shape)
    if form == "fp8":
        config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                         "weight_block_size": [128, 128]}
    config["torch_dtype"] = "float32" if form == "f32" else "bfloat16"
    for depth in range(shape["num_nextn_predict_layers"]):  # as published: copies of the shared tables
        prefix = f"model.layers.{shape['num_hidden_layers'] + depth}."
        stored[prefix + "embed_tokens.weight"] = stored["model.embed_tokens.weight"].clone()
        stored[prefix + "shared_head.head.weight"] = stored["lm_head.weight"].clone()
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    for old in folder.glob("model*"):
        old.unlink()
    stored = {key: tensor.contiguous() for key, tensor in stored.items()}
    if form != "bf16":
        save_file(stored, folder / "model.safetensors")
        return
    names = sorted(stored)  # two shards
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({key: stored[key] for key in members}, folder / file)
    index = {"metadata": {}, "weight_map": {key: file for file, members in parts.items() for key in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=0) + "\n")


def main():
    torch.set_num_threads(1)
    patch_reference()
    watch, wanted = Watch(), sys.argv[1:]
    for name, family in FAMILIES.items():
        for form in FORMATS[name]:
            folder = f"{name}-{form}"
            if wanted and folder not in wanted:
                continue
            shape = {**family, **NARROW.get(folder, {})}
            for seed in range(FIRST_SEED.get(folder, 0), 1000):
                prompt = np.random.default_rng(seed).integers(2, shape["vocab_size"], PROMPT).tolist()
                weights = make_weights(shape, seed)
                stored, values = store(make_small(weights, shape) if folder in SMALL else weights, form)
                expected = expectation(shape, values, TOLERANCE[form], watch, prompt)
                if expected is not None:
                    break
            write(name, form, shape, stored, expected)
            print(name, form, "seed", seed, "gap", expected["least_gap"], flush=True)


if __name__ == "__main__":
    main()
