"""DeepSeek-V2/V3 language models for training: Hugging Face's attention, router and MLP modules in a module
tree whose parameter names are the published checkpoints' names, with the multi-token prediction (MTP) layer
and the balance loss, which Hugging Face lacks, added.

Hugging Face's attention and routers follow the specification in the pinned version: groups out of the race are
at -infinity (older versions: 0), the latents' norms have eps 1e-6, YaRN's mscale**2 is in the softmax scale.
`plain.py` checks that, so nothing is corrected here. Its fused expert weights are replaced by one MLP per expert.

Shapes: B sequences, T positions, N tokens (B*T), E experts, K selected experts, V vocabulary, d hidden width.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config

import plain

FAMILIES = {
    "deepseek_v2": SimpleNamespace(
        config=DeepseekV2Config,
        attention=v2.DeepseekV2Attention,
        router=v2.DeepseekV2TopkRouter,
        rotary=v2.DeepseekV2RotaryEmbedding,
        mlp=v2.DeepseekV2MLP,
    ),
    "deepseek_v3": SimpleNamespace(
        config=DeepseekV3Config,
        attention=v3.DeepseekV3Attention,
        router=v3.DeepseekV3TopkRouter,
        rotary=v3.DeepseekV3RotaryEmbedding,
        mlp=v3.DeepseekV3MLP,
    ),
}


class Moe(nn.Module):
    """Routed and shared experts. Returns the output, the experts' load [E] and the unweighted balance loss."""

    def __init__(self, shape, config, family, by_hand):
        super().__init__()
        self.shape, self.by_hand = shape, by_hand
        width = shape["moe_intermediate_size"]
        self.gate = family.router(config)
        self.experts = nn.ModuleList(
            family.mlp(config, intermediate_size=width) for _ in range(shape["n_routed_experts"])
        )
        self.shared_experts = family.mlp(config, intermediate_size=width * shape["n_shared_experts"])

    def forward(self, x_BTd):
        x_Nd = x_BTd.flatten(0, 1)
        routed = plain.route(self.gate, x_Nd, self.shape) if self.by_hand else self.gate(x_Nd)
        logits_NE, gates_NK, chosen_NK = routed
        y_Nd = self.shared_experts(x_Nd)
        for expert, mlp in enumerate(self.experts):
            token, slot = torch.where(chosen_NK == expert)
            y_Nd = y_Nd.index_add(0, token, mlp(x_Nd[token]) * gates_NK[token, slot, None])
        load_E = torch.bincount(chosen_NK.flatten(), minlength=len(self.experts))
        return y_Nd.view_as(x_BTd), load_E, self.balance_loss(logits_NE.view(*x_BTd.shape[:2], -1))

    def balance_loss(self, logits_BTE):
        """Sequence-wise sum of f_i * P_i; f counts the top-k of the bare scores, so gradients pass P alone."""
        experts, k = self.shape["n_routed_experts"], self.shape["num_experts_per_tok"]
        scores = plain.expert_scores(logits_BTE, self.shape)
        selected = F.one_hot(scores.topk(k).indices, experts).sum(dim=2).to(scores.dtype)
        f_BE = selected.mean(dim=1) * experts / k
        p_BE = (scores / scores.sum(dim=-1, keepdim=True)).mean(dim=1)
        return (f_BE * p_BE).sum(dim=-1).mean()


class Block(nn.Module):
    """One transformer block. Returns the new state and, of a mixture of experts, its load and balance loss."""

    def __init__(self, shape, config, family, index, by_hand):
        super().__init__()
        self.shape, self.by_hand = shape, by_hand
        hidden, eps = shape["hidden_size"], shape["rms_norm_eps"]
        self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.self_attn = family.attention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)
        dense = index < shape["first_k_dense_replace"]
        self.mlp = family.mlp(config) if dense else Moe(shape, config, family, by_hand)

    def attend(self, x_BTd, rotary):
        if self.by_hand:
            return plain.attention(self.self_attn, x_BTd, self.shape)
        T = x_BTd.shape[1]
        mask = torch.full((T, T), float("-inf")).triu(1)
        return self.self_attn(x_BTd, position_embeddings=rotary, attention_mask=mask)[0]

    def forward(self, h_BTd, rotary):
        h_BTd = h_BTd + self.attend(self.input_layernorm(h_BTd), rotary)
        x_BTd = self.post_attention_layernorm(h_BTd)
        if not isinstance(self.mlp, Moe):
            return h_BTd + self.mlp(x_BTd), None
        y_BTd, load_E, balance = self.mlp(x_BTd)
        return h_BTd + y_BTd, (load_E, balance)


class MtpBlock(Block):
    """A block that first joins the previous depth's state with the embedding of the next token."""

    def __init__(self, shape, config, family, index, by_hand):
        super().__init__(shape, config, family, index, by_hand)
        hidden, eps = shape["hidden_size"], shape["rms_norm_eps"]
        self.enorm = nn.RMSNorm(hidden, eps=eps)
        self.hnorm = nn.RMSNorm(hidden, eps=eps)
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False)
        self.shared_head = nn.Module()
        self.shared_head.norm = nn.RMSNorm(hidden, eps=eps)

    def forward(self, h_BTd, embedded_BTd, rotary):
        joined = torch.cat((self.enorm(embedded_BTd), self.hnorm(h_BTd)), dim=-1)
        h_BTd, routing = super().forward(self.eh_proj(joined), rotary)
        return self.shared_head.norm(h_BTd), routing


class LanguageModel(nn.Module):
    """`shape` is the content of config.json. `by_hand` replaces Hugging Face's code by `plain.py`."""

    def __init__(self, shape, by_hand):
        super().__init__()
        family = FAMILIES[shape["model_type"]]
        config = family.config(**shape, attn_implementation="eager")
        layers = shape["num_hidden_layers"]
        self.mtp_depth = shape.get("num_nextn_predict_layers", 0)
        self.rotary = family.rotary(config)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(shape["vocab_size"], shape["hidden_size"])
        self.model.layers = nn.ModuleList(
            (Block if index < layers else MtpBlock)(shape, config, family, index, by_hand)
            for index in range(layers + self.mtp_depth)
        )
        self.model.norm = nn.RMSNorm(shape["hidden_size"], eps=shape["rms_norm_eps"])
        self.lm_head = nn.Linear(shape["hidden_size"], shape["vocab_size"], bias=False)

    def forward(self, tokens):
        """`tokens` [B, T+1+depth]. Logits [B, T, V] of each depth, and {layer: (load, balance loss)}."""
        T = tokens.shape[1] - 1 - self.mtp_depth
        embedded = self.model.embed_tokens(tokens)
        rotary = self.rotary(embedded, torch.arange(T)[None])
        routings = {}
        h_BTd = embedded[:, :T]
        main_layers = len(self.model.layers) - self.mtp_depth
        for index, layer in enumerate(self.model.layers[:main_layers]):
            h_BTd, routings[index] = layer(h_BTd, rotary)
        h_BTd = self.model.norm(h_BTd)
        logits = [self.lm_head(h_BTd)]
        for depth, layer in enumerate(self.model.layers[main_layers:], start=1):
            next_embedded = embedded[:, depth : depth + T]
            h_BTd, routings[main_layers + depth - 1] = layer(h_BTd, next_embedded, rotary)
            logits.append(self.lm_head(h_BTd))
        return logits, {index: routing for index, routing in routings.items() if routing is not None}


def losses(logits, routings, tokens):
    """Mean cross-entropy of the main head, mean over depths of the MTP heads', and the unweighted balance loss."""
    T = logits[0].shape[1]
    cross_entropies = [
        F.cross_entropy(of_depth.flatten(0, 1), tokens[:, depth + 1 : depth + 1 + T].flatten())
        for depth, of_depth in enumerate(logits)
    ]
    main, mtp = cross_entropies[0], cross_entropies[1:]
    balance = sum(balance for _, balance in routings.values())
    return main, sum(mtp, main.new_zeros(())) / max(len(mtp), 1), balance
