#!/usr/bin/env python3
"""A GGUF file of a random BF16 folder of the DeepSeek V2 family, for timing llama.cpp and its forks.

    pip install gguf
    moray bench make-model recipes/v2-lite.toml random --set model.num_hidden_layers=7
    bench/write_gguf.py random random.gguf
    bench/write_gguf.py --bytes random.gguf      # a GGUF file's weight bytes that one decoded token reads

Experts of a layer are stacked into one tensor, norms and router stay F32. There is no vocabulary: tokens have
numbers only. For models of real weights use the converters of llama.cpp.
"""

import argparse
import json
import sys
from pathlib import Path

import gguf
import numpy as np

LAYER = {  # in a folder, in a GGUF file
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.{}.gate_proj": "ffn_gate_exps",
    "mlp.experts.{}.up_proj": "ffn_up_exps",
    "mlp.experts.{}.down_proj": "ffn_down_exps",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
NUMBERS = {"F32": np.float32, "BF16": np.uint16}


def read_folder(folder):
    """Each tensor of the shards, mapped: BF16 as its 16 bits."""
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        raw = np.memmap(shard, np.uint8, "r")
        start = 8 + int(raw[:8].view(np.uint64)[0])
        for name, about in json.loads(raw[8:start].tobytes()).items():
            if name == "__metadata__":
                continue
            if about["dtype"] not in NUMBERS:
                raise SystemExit(f"{name}: {about['dtype']}, expected BF16 or F32 (--format bf16)")
            begin, end = about["data_offsets"]
            values = raw[start + begin:start + end].view(NUMBERS[about["dtype"]])
            tensors[name] = values.reshape(about["shape"])
    return tensors


def stack_names(config):
    """(Name in the file, names in the folder: one, or one of each expert.)"""
    for ours, theirs in OUTER.items():
        yield f"{theirs}.weight", [f"{ours}.weight"]
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in LAYER.items():
            experts = range(config["n_routed_experts"]) if "{}" in ours else [0]
            yield (f"blk.{layer}.{theirs}.weight",
                   [f"model.layers.{layer}.{ours.format(e)}.weight" for e in experts])


def add_config(writer, config):
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_name("random")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("q_lora_rank"):
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(config["qk_nope_head_dim"] + rope)
    writer.add_value_length(config["v_head_dim"])
    writer.add_rope_dimension_count(rope)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
    scaling = config.get("rope_scaling")
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def write_file(folder, output):
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "deepseek_v2" or config["scoring_func"] != "softmax" or config["n_group"] > 1:
        raise SystemExit(f"{folder}: not of DeepSeek V2's family with one group of experts")
    tensors = read_folder(folder)
    writer = gguf.GGUFWriter(output, "deepseek2")
    add_config(writer, config)
    names = [(theirs, ours) for theirs, ours in stack_names(config) if ours[0] in tensors]
    left = set(tensors) - {name for _, ours in names for name in ours}
    if left:
        raise SystemExit(f"{folder}: no place for {sorted(left)[0]} and {len(left) - 1} more")
    for theirs, ours in names:
        one = tensors[ours[0]]
        shape = one.shape if len(ours) == 1 else (len(ours), *one.shape)
        bf16 = one.dtype == np.uint16
        kind = gguf.GGMLQuantizationType.BF16 if bf16 else gguf.GGMLQuantizationType.F32
        writer.add_tensor_info(theirs, shape, np.dtype(np.float16 if bf16 else np.float32),
                               one.nbytes * len(ours), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for theirs, ours in names:
        writer.write_tensor_data(tensors[ours[0]] if len(ours) == 1 else np.stack([tensors[o] for o in ours]))
    writer.close()


def bytes_a_token(path):
    """Weights that one decoded token reads: of experts the chosen ones, of the embeddings one row."""
    reader = gguf.GGUFReader(path)
    share = (int(reader.get_field("deepseek2.expert_used_count").contents()) /
             int(reader.get_field("deepseek2.expert_count").contents()))
    total = 0
    for tensor in reader.tensors:
        if tensor.name != "token_embd.weight":
            total += tensor.n_bytes * (share if "_exps." in tensor.name else 1)
    return round(total)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", action="store_true", help="print what a token reads of a GGUF file")
    parser.add_argument("input", type=Path, help="a folder, with --bytes a GGUF file")
    parser.add_argument("output", type=Path, nargs="?", help="the GGUF file to write")
    arguments = parser.parse_args()
    if arguments.bytes:
        print(bytes_a_token(arguments.input))
    elif arguments.output:
        write_file(arguments.input, arguments.output)
    else:
        parser.error("which file to write?")


if __name__ == "__main__":
    sys.exit(main())
