"""Multi-head latent attention and the expert routers written out by hand, in the dtype of their input.

They serve twice: Hugging Face's modules are checked against them, and they carry the float64 run, because
Hugging Face's modules compute norms, rotary angles, softmax and router scores in float32 whatever the input.

Shapes: B sequences, T positions, H heads, N tokens (B*T), E experts, K selected experts, d a width.
"""

import math

import torch
import torch.nn.functional as F

LATENT_NORM_EPS = 1e-6  # of q_a_layernorm and kv_a_layernorm, whatever rms_norm_eps says


def yarn_mscale(factor, mscale):
    return 0.1 * mscale * math.log(factor) + 1.0


def yarn_frequencies(shape, dtype):
    """Angle per position of each rotary pair: slow pairs are stretched by `factor`, fast ones kept."""
    scaling = shape["rope_scaling"]
    dim, base = shape["qk_rope_head_dim"], shape["rope_theta"]

    def pair_that_turns(rotations):
        context = scaling["original_max_position_embeddings"]
        return dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_that_turns(scaling["beta_fast"])), 0)
    high = min(math.ceil(pair_that_turns(scaling["beta_slow"])), dim - 1)
    pair = torch.arange(dim // 2, dtype=dtype)
    kept = base ** (-2 * pair / dim)
    stretch = ((pair - low) / (high - low)).clamp(0, 1)
    return kept * (1 - stretch) + kept / scaling["factor"] * stretch


def rotate_pairs(x_BHTd, shape):
    """RoPE on the pairs (2j, 2j+1)."""
    scaling = shape["rope_scaling"]
    frequencies = yarn_frequencies(shape, x_BHTd.dtype)
    angles_Tp = torch.arange(x_BHTd.shape[2], dtype=x_BHTd.dtype)[:, None] * frequencies
    magnitude = yarn_mscale(scaling["factor"], scaling["mscale"]) / yarn_mscale(
        scaling["factor"], scaling["mscale_all_dim"]
    )
    cos, sin = angles_Tp.cos() * magnitude, angles_Tp.sin() * magnitude
    even, odd = x_BHTd[..., 0::2], x_BHTd[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def latent_norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + LATENT_NORM_EPS) * weight


def attention(weights, x_BTd, shape):
    """MLA with a causal mask. `weights` is Hugging Face's attention module, used for its parameters alone."""
    B, T, _ = x_BTd.shape
    nope, rope, value = shape["qk_nope_head_dim"], shape["qk_rope_head_dim"], shape["v_head_dim"]
    heads = shape["num_attention_heads"]

    if shape["q_lora_rank"] is None:
        q = x_BTd @ weights.q_proj.weight.T
    else:
        q_latent = latent_norm(x_BTd @ weights.q_a_proj.weight.T, weights.q_a_layernorm.weight)
        q = q_latent @ weights.q_b_proj.weight.T
    q_nope, q_rope = q.view(B, T, heads, nope + rope).transpose(1, 2).split([nope, rope], dim=-1)

    kv = x_BTd @ weights.kv_a_proj_with_mqa.weight.T
    kv_latent, k_rope = kv.split([shape["kv_lora_rank"], rope], dim=-1)
    kv = latent_norm(kv_latent, weights.kv_a_layernorm.weight) @ weights.kv_b_proj.weight.T
    k_nope, v = kv.view(B, T, heads, nope + value).transpose(1, 2).split([nope, value], dim=-1)
    k_rope = rotate_pairs(k_rope[:, None], shape)  # one for all heads

    scaling = shape["rope_scaling"]
    scale = yarn_mscale(scaling["factor"], scaling["mscale_all_dim"]) ** 2 / math.sqrt(nope + rope)
    scores = q_nope @ k_nope.mT + rotate_pairs(q_rope, shape) @ k_rope.mT
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    probabilities = (scores * scale).masked_fill(future, float("-inf")).softmax(dim=-1)
    return (probabilities @ v).transpose(1, 2).reshape(B, T, heads * value) @ weights.o_proj.weight.T


def expert_scores(logits_NE, shape):
    return logits_NE.sigmoid() if shape["scoring_func"] == "sigmoid" else logits_NE.softmax(dim=-1)


def route(gate, x_Nd, shape):
    """Router logits [N, E], gates [N, K] and expert ids [N, K], as Hugging Face's routers return them."""
    logits_NE = x_Nd @ gate.weight.T
    scores_NE = expert_scores(logits_NE, shape)
    if shape["topk_method"] == "noaux_tc":
        chosen_NK = select_in_best_groups(scores_NE + gate.e_score_correction_bias, shape)
    else:
        chosen_NK = scores_NE.topk(shape["num_experts_per_tok"]).indices
    gates_NK = scores_NE.gather(1, chosen_NK)
    if shape["norm_topk_prob"]:
        gates_NK = gates_NK / gates_NK.sum(dim=-1, keepdim=True)
    return logits_NE, gates_NK * shape["routed_scaling_factor"], chosen_NK


def select_in_best_groups(biased_NE, shape):
    """Top-k among the groups whose two best biased scores sum highest; other groups are out at -infinity."""
    N, E = biased_NE.shape
    grouped = biased_NE.view(N, shape["n_group"], -1)
    best_groups = grouped.topk(2).values.sum(dim=-1).topk(shape["topk_group"]).indices
    allowed = F.one_hot(best_groups, shape["n_group"]).sum(dim=1).bool()
    masked = grouped.masked_fill(~allowed[:, :, None], float("-inf")).view(N, E)
    return masked.topk(shape["num_experts_per_tok"]).indices
