#!/usr/bin/env python3
"""One training step of a recipe's model in PyTorch on CPU, as a good user would write it: forward, backward,
clipping, AdamW; f32, scaled_dot_product_attention, fused AdamW, rows sorted by expert, and for each expert one
product of its rows (or, with --grouped, torch's grouped product where it runs in f32 on CPU).

    pytorch_step.py recipes/small.toml --batch 4 --steps 3 --threads 2

Prints one JSON line: tokens a second (the best step) and the number of parameters. Random tokens; the balance bias
is not updated and the balance loss left out, which is to PyTorch's good.

Shapes: B samples, T positions, N tokens (B*T), K experts a token, d hidden width, H heads, V vocabulary.
"""

import argparse
import json
import time
import tomllib
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


def rotate(x, cos, sin):
    """Turns pairs (2j, 2j+1) of the last axis; x is [B, T, H, R], the tables [T, 1, R/2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Attention(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.m = m
        self.q_a, self.q_norm = linear(m.hidden_size, m.q_lora_rank), nn.RMSNorm(m.q_lora_rank, eps=1e-6)
        self.q_b = linear(m.q_lora_rank, m.num_attention_heads * (m.qk_nope_head_dim + m.qk_rope_head_dim))
        self.kv_a = linear(m.hidden_size, m.kv_lora_rank + m.qk_rope_head_dim)
        self.kv_norm = nn.RMSNorm(m.kv_lora_rank, eps=1e-6)
        self.kv_b = linear(m.kv_lora_rank, m.num_attention_heads * (m.qk_nope_head_dim + m.v_head_dim))
        self.o = linear(m.num_attention_heads * m.v_head_dim, m.hidden_size)

    def forward(self, x_BTd, cos, sin):
        m, (B, T, _) = self.m, x_BTd.shape
        H, nope, rope = m.num_attention_heads, m.qk_nope_head_dim, m.qk_rope_head_dim
        q = self.q_b(self.q_norm(self.q_a(x_BTd))).view(B, T, H, nope + rope)
        q_nope, q_rope = q.split((nope, rope), dim=-1)
        latent, k_rope = self.kv_a(x_BTd).split((m.kv_lora_rank, rope), dim=-1)
        k_nope, v = self.kv_b(self.kv_norm(latent)).view(B, T, H, nope + m.v_head_dim).split(
            (nope, m.v_head_dim), dim=-1
        )
        k_rope = rotate(k_rope.unsqueeze(2), cos, sin).expand(B, T, H, rope)
        q = torch.cat((q_nope, rotate(q_rope, cos, sin)), dim=-1).transpose(1, 2)
        k = torch.cat((k_nope, k_rope), dim=-1).transpose(1, 2)
        v = v.transpose(1, 2)
        if self.m.pad_values:  # the fused kernel wants keys and values of one width
            v = F.pad(v, (0, nope + rope - m.v_head_dim))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)[..., : m.v_head_dim]
        return self.o(out.transpose(1, 2).reshape(B, T, -1))


class Mlp(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.gate_up, self.down = linear(hidden, 2 * width), linear(width, hidden)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Moe(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.m = m
        E, d, width = m.n_routed_experts, m.hidden_size, m.moe_intermediate_size
        self.router = nn.Parameter(torch.randn(E, d) * 0.006)
        self.register_buffer("bias", torch.zeros(E))
        self.gate_up = nn.Parameter(torch.randn(E, d, 2 * width) * 0.006)
        self.down = nn.Parameter(torch.randn(E, width, d) * 0.006)
        self.shared = Mlp(d, m.n_shared_experts * width)

    def route(self, x_Nd):
        m = self.m
        scores = F.linear(x_Nd, self.router).sigmoid()
        with torch.no_grad():
            biased = scores + self.bias
            groups = biased.view(-1, m.n_group, m.n_routed_experts // m.n_group)
            best = groups.topk(2, dim=-1).values.sum(-1).topk(m.topk_group, dim=-1).indices
            keep = torch.zeros(groups.shape[:2], dtype=torch.bool).scatter_(1, best, True)
            chosen = groups.masked_fill(~keep.unsqueeze(-1), float("-inf")).flatten(1)
            ids_NK = chosen.topk(m.num_experts_per_tok, dim=-1).indices
        gates_NK = scores.gather(1, ids_NK)
        return ids_NK, gates_NK / (gates_NK.sum(-1, keepdim=True) + 1e-20) * m.routed_scaling_factor

    def experts(self, x, counts):
        if self.m.grouped:
            offsets = counts.cumsum(0).to(torch.int32)
            gate, up = torch._grouped_mm(x, self.gate_up, offs=offsets).chunk(2, dim=-1)
            return torch._grouped_mm(F.silu(gate) * up, self.down, offs=offsets)
        outputs = []
        for rows, gate_up, down in zip(x.split(counts.tolist()), self.gate_up.unbind(), self.down.unbind()):
            gate, up = (rows @ gate_up).chunk(2, dim=-1)
            outputs.append((F.silu(gate) * up) @ down)
        return torch.cat(outputs)

    def forward(self, x_BTd):
        x_Nd = x_BTd.flatten(0, 1)
        ids_NK, gates_NK = self.route(x_Nd)
        order = ids_NK.flatten().argsort()
        token = order // self.m.num_experts_per_tok
        counts = torch.bincount(ids_NK.flatten(), minlength=self.m.n_routed_experts)
        y = self.experts(x_Nd[token], counts) * gates_NK.flatten()[order].unsqueeze(-1)
        return self.shared(x_BTd) + torch.zeros_like(x_Nd).index_add(0, token, y).view_as(x_BTd)


class Block(nn.Module):
    def __init__(self, m, dense):
        super().__init__()
        self.attention_norm = nn.RMSNorm(m.hidden_size, eps=1e-6)
        self.mlp_norm = nn.RMSNorm(m.hidden_size, eps=1e-6)
        self.attention = Attention(m)
        self.mlp = Mlp(m.hidden_size, m.intermediate_size) if dense else Moe(m)

    def forward(self, h, cos, sin):
        h = h + self.attention(self.attention_norm(h), cos, sin)
        return h + self.mlp(self.mlp_norm(h))


class Model(nn.Module):
    """The main model and, where the recipe has one, the first multi-token prediction module."""

    def __init__(self, m):
        super().__init__()
        d = m.hidden_size
        self.m = m
        self.embed = nn.Embedding(m.vocab_size, d)
        self.blocks = nn.ModuleList(Block(m, i < m.first_k_dense_replace) for i in range(m.num_hidden_layers))
        self.norm, self.head = nn.RMSNorm(d, eps=1e-6), linear(d, m.vocab_size)
        if m.num_nextn_predict_layers > 1:
            raise SystemExit("more than one MTP depth is not built here")
        if m.num_nextn_predict_layers:
            self.mtp = Block(m, dense=False)
            self.enorm, self.hnorm, self.mtp_norm = (nn.RMSNorm(d, eps=1e-6) for _ in range(3))
            self.eh_proj = linear(2 * d, d)

    def forward(self, tokens, cos, sin):
        T = cos.shape[0]
        h = self.embed(tokens[:, :T])
        for block in self.blocks:
            h = block(h, cos, sin)
        h = self.norm(h)
        loss = self.loss(h, tokens[:, 1 : T + 1])
        if self.m.num_nextn_predict_layers:
            joined = torch.cat((self.enorm(self.embed(tokens[:, 1 : T + 1])), self.hnorm(h)), dim=-1)
            h = self.mtp_norm(self.mtp(self.eh_proj(joined), cos, sin))
            loss = loss + 0.3 * self.loss(h, tokens[:, 2 : T + 2])
        return loss

    def loss(self, h, targets):
        return F.cross_entropy(self.head(h).flatten(0, 1), targets.flatten())


DEFAULTS = {
    "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "n_shared_experts": 1, "rope_theta": 10000.0,
    "num_nextn_predict_layers": 0,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--batch", type=int, default=4, help="samples a step")
    parser.add_argument("--micro-batch", type=int, default=4, help="samples that pass at once")
    parser.add_argument("--steps", type=int, default=3, help="steps timed, after one of warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--grouped", action="store_true", help="torch._grouped_mm for the experts")
    parser.add_argument("--pad-values", action="store_true", help="values padded to the width of keys")
    parser.add_argument("--one-pool", action="store_true", help="backward pass on the calling thread alone")
    options = parser.parse_args()
    with open(options.recipe, "rb") as file:
        recipe = tomllib.load(file)
    m = SimpleNamespace(**DEFAULTS | recipe["model"], grouped=options.grouped, pad_values=options.pad_values)
    T = recipe["train"]["sequence_length"]

    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(1)
    model = Model(m)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    frequencies = m.rope_theta ** (-torch.arange(0, m.qk_rope_head_dim, 2) / m.qk_rope_head_dim)
    angles = torch.outer(torch.arange(T), frequencies).unsqueeze(1)
    cos, sin = angles.cos(), angles.sin()
    best = float("inf")
    for step in range(options.steps + 1):
        tokens = torch.randint(m.vocab_size, (options.batch, T + 2))
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=False)
        for part in tokens.split(options.micro_batch):
            loss = model(part, cos, sin) * (len(part) / options.batch)
            with torch.autograd.set_multithreading_enabled(not options.one_pool):
                loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        seconds = time.perf_counter() - start
        if step > 0:
            best = min(best, seconds)
    figures = {
        "tokens_per_second": options.batch * T / best,
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "loss": loss.item() * options.batch / len(part),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
