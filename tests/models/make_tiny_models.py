#!/usr/bin/env python3
"""Makes the tiny checkpoints beside it, and their golden.json, with Hugging Face transformers in float32.

  python3 -m venv v && v/bin/pip install torch transformers && v/bin/python tests/models/make_tiny_models.py [DIR [NAME...]]

Random weights, but lively ones (norms and biases too), so that a forgotten bias, norm or rope variant changes the
tokens. The files are committed: nothing here runs in CI.
"""
import json
import os
import pathlib
import sys

import torch
from transformers import (AutoModelForCausalLM, DeepseekV2Config, DeepseekV3Config, LlamaConfig, MistralConfig,
                          Qwen2Config, Qwen3Config)

HERE = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, vocab_size=128, max_position_embeddings=256,
             bos_token_id=0, eos_token_id=1, pad_token_id=None)

# name: (config, dtype of the file, write config.json in the spelling of transformers 4)
MODELS = {
    "tiny-qwen3": (Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                               rope_parameters={"rope_type": "default", "rope_theta": 1e6},
                               tie_word_embeddings=True), torch.bfloat16, False),
    "tiny-qwen3-bias": (Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
                                    attention_bias=True,
                                    rope_parameters={"rope_type": "default", "rope_theta": 1e4}), torch.float32, True),
    "tiny-llama-bias": (LlamaConfig(**{**SIZES, "hidden_size": 36}, num_attention_heads=3, num_key_value_heads=3,
                                    head_dim=10, attention_bias=True, mlp_bias=True,
                                    rope_parameters={"rope_type": "default", "rope_theta": 1e4}), torch.float16, False),
    "tiny-llama-yarn": (LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                                    rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
                                                     "original_max_position_embeddings": 64}), torch.float32, True),
    "tiny-qwen2-yarn": (Qwen2Config(**SIZES, num_attention_heads=2, num_key_value_heads=1,
                                    rope_parameters={"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0,
                                                     "original_max_position_embeddings": 32, "beta_fast": 16.0,
                                                     "beta_slow": 2.0, "attention_factor": 1.3,
                                                     "truncate": False}), torch.bfloat16, False),
    "tiny-mistral": (MistralConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, sliding_window=None,
                                   rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
                                                    "original_max_position_embeddings": 64, "mscale": 0.7,
                                                    "mscale_all_dim": 0.4}), torch.bfloat16, True),
}
LATENT = dict(num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=6,
              v_head_dim=7, moe_intermediate_size=12)
MODELS |= {
    # groups, no q latent, sharpened softmax, biases in attention and MLPs, an rms_norm_eps that the latents ignore
    "tiny-deepseek-v2-groups": (DeepseekV2Config(
        **{**SIZES, "hidden_size": 36}, **LATENT, q_lora_rank=None, n_routed_experts=8, num_experts_per_tok=3,
        n_shared_experts=2, first_k_dense_replace=1, topk_method="group_limited_greedy", n_group=4, topk_group=2,
        routed_scaling_factor=1.7, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2, tie_word_embeddings=True,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.0,
                         "original_max_position_embeddings": 64}), torch.float32, True),
    # every layer has experts, plain rope, a q latent
    "tiny-deepseek-v2-greedy": (DeepseekV2Config(
        **SIZES, **LATENT, q_lora_rank=14, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1,
        first_k_dense_replace=0, topk_method="greedy", routed_scaling_factor=1.0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}), torch.bfloat16, False),
    # pairs (i, i + half), weights not normalised, biases, mscale alone
    "tiny-deepseek-v3-halves": (DeepseekV3Config(
        **SIZES, **LATENT, q_lora_rank=14, n_routed_experts=12, num_experts_per_tok=4, n_shared_experts=1, n_group=3,
        topk_group=2, first_k_dense_replace=1, norm_topk_prob=False, routed_scaling_factor=0.8, rope_interleave=False,
        attention_bias=True, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "mscale": 0.7,
                                              "original_max_position_embeddings": 32}), torch.bfloat16, True),
    # no q latent, one group, no shared expert, linear rope
    "tiny-deepseek-v3-plain": (DeepseekV3Config(
        **SIZES, **LATENT, q_lora_rank=None, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=0, n_group=1,
        topk_group=1, first_k_dense_replace=2, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
        torch.float32, False),
    # the one kept group has little more experts than are chosen: negative ones too; mscale_all_dim without yarn
    "tiny-deepseek-v3-negative": (DeepseekV3Config(
        **SIZES, **LATENT, q_lora_rank=None, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, n_group=2,
        topk_group=1, first_k_dense_replace=0, norm_topk_prob=False, routed_scaling_factor=1.0,
        rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64, "mscale_all_dim": 0.9}),
        torch.bfloat16, False),
}
PROMPTS = (1, 5, 33, 100, 200)
STEPS = 10


def fill(model, generator):
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("norm.weight"):
            p.data = 1 + 0.3 * noise
        elif name.endswith("bias"):
            p.data = 0.3 * noise
        elif "embed_tokens" in name:
            p.data = 0.7 * noise
        elif "lm_head" in name:
            p.data = 2.0 * noise / p.shape[1] ** 0.5
        else:
            p.data = 1.5 * noise / p.shape[-1] ** 0.5
    for name, b in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            b.data = 0.2 * torch.randn(b.shape, generator=generator)


def old_spelling(path):
    config = json.load(open(path))
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope["rope_type"]
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    json.dump(config, open(path, "w"), indent=1)


def golden(model, name, generator):
    cases = []
    for length in PROMPTS:
        prompt = torch.randint(2, model.config.vocab_size, (length,), generator=generator).tolist()
        ids, steps = list(prompt), []
        for _ in range(STEPS):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].float()
            top = torch.topk(logits, 5)
            steps.append({"id": int(top.indices[0]), "margin": round(float(top.values[0] - top.values[1]), 6),
                          "logprob": round(float(torch.log_softmax(logits, -1)[top.indices[0]]), 6),
                          "top5": top.indices.tolist()})
            ids.append(int(top.indices[0]))
        cases.append({"prompt": prompt, "steps": steps})
    return {"model": name, "reference": "transformers float32 eager, greedy, eos ignored", "cases": cases}


only = sys.argv[2:]
for seed, (name, (config, dtype, old)) in enumerate(MODELS.items()):
    if only and name not in only:
        continue
    generator = torch.Generator().manual_seed(seed)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, generator)
    if config.tie_word_embeddings:
        model.tie_weights()
    model.to(dtype).save_pretrained(HERE / name)
    if old:
        old_spelling(HERE / name / "config.json")
    model = AutoModelForCausalLM.from_pretrained(HERE / name, dtype=torch.float32, attn_implementation="eager").eval()
    with open(HERE / f"{name}.golden.json", "w") as f:
        json.dump(golden(model, name, generator), f)
        f.write("\n")
    print(name, sum(p.numel() for p in model.parameters()))
