"""Trains two tiny DeepSeek models 200 steps in PyTorch and writes what an independent trainer must reproduce.

    python3.11 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python tests/golden/train/write_vectors.py TEXT [FOLDER]

TEXT is any text file; its bytes are the tokens (the committed vectors used tinyshakespeare.txt).
Reads v3/config.json and v2/config.json beside this script and writes model.safetensors, batches.bin and
expected.json into FOLDER/v3 and FOLDER/v2 (FOLDER is the script's own folder if absent). About a minute
on one core. README.md describes the files.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import plain
from model import LanguageModel, Moe, losses

HERE = Path(__file__).resolve().parent
HYPER = {
    "v3": {"seed": 7, "peak_learning_rate": 1e-3, "mtp_weight": 0.3, "balance_alpha": 0.01, "bias_gamma": 0.001},
    "v2": {"seed": 8, "peak_learning_rate": 1.5e-3, "mtp_weight": 0.0, "balance_alpha": 0.01, "bias_gamma": 0.0},
}
COMMON = {
    "steps": 200,
    "batch_size": 4,
    "sequence_length": 64,
    "warmup_steps": 20,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_eps": 1e-8,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
}
INITIAL_STD = 0.05
INITIAL_ROUTER_STD = 0.2  # spreads the scores: fewer near-ties, which another order of sums may decide otherwise
INITIAL_BIAS_MEAN, INITIAL_BIAS_STD = -0.6, 0.1  # s + b is often negative: masking groups with 0 would show
LOGIT_POSITIONS = [0, 1, 31, 63]
STABLE_STEPS = 20
MAX_FLOAT64_DIFFERENCE = 1e-3


def make_initial_weights(shape, seed):
    """Float32 tensors under the published names."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in LanguageModel(shape, by_hand=True).state_dict().items():
        if name.endswith("e_score_correction_bias"):
            weights[name] = torch.empty_like(tensor).normal_(INITIAL_BIAS_MEAN, INITIAL_BIAS_STD, generator=generator)
        elif tensor.dim() == 1:
            weights[name] = torch.ones_like(tensor)
        else:
            std = INITIAL_ROUTER_STD if name.endswith("mlp.gate.weight") else INITIAL_STD
            weights[name] = torch.empty_like(tensor).normal_(0, std, generator=generator)
    return weights


def make_batches(text, hyper, mtp_depth):
    """u16 [steps, batch, sequence_length + 1 + mtp_depth] from random places of the text."""
    length = hyper["sequence_length"] + 1 + mtp_depth
    starts = np.random.default_rng(hyper["seed"]).integers(
        0, len(text) - length, size=(hyper["steps"], hyper["batch_size"])
    )
    return np.frombuffer(text, dtype=np.uint8)[starts[..., None] + np.arange(length)].astype("<u2")


def load_model(shape, weights, dtype, by_hand):
    model = LanguageModel(shape, by_hand)
    model.load_state_dict(weights)
    return model.to(dtype)


def make_optimizer(model, hyper):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": hyper["weight_decay"]}, {"params": norms, "weight_decay": 0.0}],
        betas=(hyper["adam_beta1"], hyper["adam_beta2"]),
        eps=hyper["adam_eps"],
        foreach=False,
    )


def backward(model, tokens, hyper):
    """Gradients of the optimised sum. Returns the losses by name, the logits and {layer: (load, balance)}."""
    logits, routings = model(tokens)
    main, mtp, balance = losses(logits, routings, tokens)
    loss = main + hyper["mtp_weight"] * mtp
    balance = hyper["balance_alpha"] * balance
    model.zero_grad()
    (loss + balance).backward()
    recorded = {"loss": loss, "main_loss": main, "mtp_loss": mtp, "balance_loss": balance}
    return {name: value.item() for name, value in recorded.items()}, logits, routings


def clip(model, limit):
    """Scales all gradients so that their global norm is at most `limit`; returns the norm before that."""
    norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
    if norm > limit:
        for p in model.parameters():
            p.grad *= limit / norm
    return norm.item()


@torch.no_grad()
def update_balance_bias(model, routings, gamma):
    for index, (load_E, _) in routings.items():
        bias_E = model.model.layers[index].mlp.gate.e_score_correction_bias
        mean = load_E.sum().to(bias_E.dtype) / len(load_E)
        bias_E += gamma * torch.sign(mean - load_E)


def learning_rate(step, hyper):
    return hyper["peak_learning_rate"] * min(1.0, (step + 1) / hyper["warmup_steps"])


def rounded(values):
    """Nine significant digits carry a float32 exactly."""
    return [rounded(v) if isinstance(v, list) else float(f"{v:.9g}") for v in values]


def record_start(model, logits, routings, mtp_depth):
    """What is known before the first update: logits, expert loads, and every parameter's gradient norm."""
    heads = ["main"] + [f"mtp_{depth}" for depth in range(1, mtp_depth + 1)]
    return {
        "initial_logits": {"positions": LOGIT_POSITIONS}
        | {head: rounded(of_head[0, LOGIT_POSITIONS].tolist()) for head, of_head in zip(heads, logits)},
        "step0_expert_load": {str(index): load_E.tolist() for index, (load_E, _) in routings.items()},
        "step0_gradient_norms": {name: float(f"{p.grad.norm():.9g}") for name, p in model.named_parameters()},
    }


def train(model, batches, hyper):
    """Returns per-step curves, the record of the start and the final balance bias by layer."""
    optimizer = make_optimizer(model, hyper)
    curves = {name: [] for name in ("loss", "main_loss", "mtp_loss", "balance_loss", "grad_norm")}
    for step, tokens in enumerate(torch.from_numpy(batches.astype(np.int64))):
        step_losses, logits, routings = backward(model, tokens, hyper)
        if step == 0:
            start = record_start(model, logits, routings, model.mtp_depth)
        step_losses["grad_norm"] = clip(model, hyper["clip_norm"])
        for name, value in step_losses.items():
            curves[name].append(value)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, hyper)
        optimizer.step()
        if hyper["bias_gamma"]:
            update_balance_bias(model, routings, hyper["bias_gamma"])
    biases = {
        name.split(".")[2]: rounded(bias.tolist())
        for name, bias in model.named_buffers()
        if name.endswith("e_score_correction_bias")
    }
    return {name: rounded(curve) for name, curve in curves.items()}, start, biases


@torch.no_grad()
def check_hugging_face(model, shape):
    """Hugging Face's attention and routers against the hand-written ones, on this model's weights."""
    generator = torch.Generator().manual_seed(0)
    x_BTd = torch.randn(4, 64, shape["hidden_size"], generator=generator)
    rotary = model.rotary(x_BTd, torch.arange(64)[None])
    for layer in model.model.layers:
        theirs, ours = layer.attend(x_BTd, rotary), plain.attention(layer.self_attn, x_BTd, shape)
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
        if isinstance(layer.mlp, Moe):
            check_router(layer.mlp.gate, x_BTd.flatten(0, 1), shape)


def check_router(gate, x_Nd, shape):
    dense_gates_NE = []
    for logits_NE, gates_NK, chosen_NK in (gate(x_Nd), plain.route(gate, x_Nd, shape)):
        dense_gates_NE.append(torch.zeros_like(logits_NE).scatter(1, chosen_NK, gates_NK))
    theirs, ours = dense_gates_NE
    assert torch.equal(theirs > 0, ours > 0), "the routers select different experts"
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)


def compare_with_float64(curves, exact_curves):
    """Largest relative difference of the loss: over the first steps, and over all. Fails where too chaotic."""
    loss, exact = np.array(curves["loss"]), np.array(exact_curves["loss"])
    difference = np.abs(loss - exact) / exact
    first, overall = float(difference[:STABLE_STEPS].max()), float(difference.max())
    print(f"  loss {loss[0]:.4f} -> {loss[-1]:.4f}, float64 {exact[0]:.4f} -> {exact[-1]:.4f}")
    print(f"  relative difference to float64: {first:.1e} in {STABLE_STEPS} steps, {overall:.1e} in {len(loss)}")
    assert overall < MAX_FLOAT64_DIFFERENCE, "too chaotic for a golden test: lower the learning rate or reseed"


def write_json(path, content):
    """One line for each top-level key, so that differences stay readable."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_vectors(name, text, folder):
    hyper = COMMON | HYPER[name]
    shape = json.loads((HERE / name / "config.json").read_text())
    weights = make_initial_weights(shape, hyper["seed"])
    batches = make_batches(text, hyper, shape.get("num_nextn_predict_layers", 0))
    print(f"{name}: {sum(tensor.numel() for tensor in weights.values())} parameters")

    model = load_model(shape, weights, torch.float32, by_hand=False)
    check_hugging_face(model, shape)
    curves, start, biases = train(model, batches, hyper)
    check_hugging_face(model, shape)
    exact_model = load_model(shape, weights, torch.float64, by_hand=True)
    exact_curves, exact_start, exact_biases = train(exact_model, batches, hyper)
    assert start["step0_expert_load"] == exact_start["step0_expert_load"], "a near-tie in the first step: reseed"
    compare_with_float64(curves, exact_curves)

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    batches.tofile(folder / "batches.bin")
    rates = rounded([learning_rate(step, hyper) for step in range(hyper["steps"])])
    expected = {"text_sha256": hashlib.sha256(text).hexdigest(), "hyper": hyper, "learning_rate": rates}
    expected |= curves | start | {"final_balance_bias": biases}
    expected["float64"] = exact_curves | {"final_balance_bias": exact_biases}
    write_json(folder / "expected.json", expected)


def main():
    text = Path(sys.argv[1]).read_bytes()
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in HYPER:
        write_vectors(name, text, folder / name)


if __name__ == "__main__":
    main()
