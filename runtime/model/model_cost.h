// What each part of a model weighs and works, from the configuration alone: for `penstock plan` and the
// automatic cut. Pure functions.
#pragma once

#include <cstdint>

#include "runtime/model/config.h"

namespace penstock {

struct PartCost {
  int64_t weight_bytes = 0;    // weights in `dtype`, norms and biases in float32
  double flops_per_token = 0;  // 2 per multiplied weight; lookups, norms and attention scores not counted
  int64_t expert_bytes = 0;    // of weight_bytes: of routed experts, of which a token chooses a few
};

PartCost embedding_cost(const ModelConfig& config, DType dtype);
/// Half 2 l is the attention of layer l with the norm before it, half 2 l + 1 its MLP with that before it.
PartCost half_cost(const ModelConfig& config, int64_t half, DType dtype);
PartCost layer_cost(const ModelConfig& config, int64_t layer, DType dtype);
/// Final norm and output projection. Its FLOPs fall only on tokens whose logits are wanted.
PartCost head_cost(const ModelConfig& config, DType dtype);

/// How much of the routed experts' weights `tokens` tokens need together, when each chooses as if by lot: 0
/// to 1.
double share_of_experts_hit(const ModelConfig& config, int64_t layer, int64_t tokens);

/// What the products of half a layer take of a micro-batch's time, in FLOP for each of its `tokens` tokens:
/// multiplying, or reading the weights once where that takes longer, as with experts that few tokens share.
/// `flops_per_byte`: how many FLOP the machine does while it reads a byte.
double half_work_per_token(const ModelConfig& config, int64_t half, DType dtype, int64_t tokens,
                           double flops_per_byte);

/// Multiplying q with the keys and the probabilities with the values of `context` positions, for one token.
double attention_flops_per_token(const ModelConfig& config, int64_t layer, int64_t context);

/// K and V of `block_size` positions of one layer, their scales included.
int64_t kv_bytes_per_block(const ModelConfig& config, int64_t layer, DType kv_dtype, int64_t block_size);

}  // namespace penstock
