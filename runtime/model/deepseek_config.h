// Layers of deepseek_v2 and deepseek_v3: latent attention, and experts in most layers.
#pragma once

#include "runtime/model/config.h"
#include "runtime/model/config_fields.h"

namespace penstock {

/// Appends `layers` layers to out.layers, and what a user should know to out.notes. Throws UsageError naming
/// the field, what was expected and what was found.
void read_deepseek_layers(ModelConfig& out, const Fields& config, int64_t layers, bool reads_mlp_bias);

/// softmax_scale of every layer, once out.rope is known: mscale_all_dim sharpens the softmax.
void set_latent_scale(ModelConfig& out);

}  // namespace penstock
