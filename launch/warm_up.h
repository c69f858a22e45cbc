// Forwards that nobody asked for, before the first that somebody did.
#pragma once

#include "runtime/device/device.h"
#include "runtime/pipeline/stage.h"
#include "stages/build_stage.h"

namespace penstock {

/// How many KV blocks warm_up uses.
int64_t warm_up_blocks(const StageSpec& spec);

/// Runs the stage on made-up micro-batches of every size class up to the largest, so that a GPU's kernels are
/// loaded and chosen, and its memory is taken, before the job's clock runs. The stage has at least
/// warm_up_blocks of cache; what this leaves there is written over before it is read.
void warm_up(Stage& stage, Device& device, const StageSpec& spec);

}  // namespace penstock
