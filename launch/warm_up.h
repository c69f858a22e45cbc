// Forwards that nobody asked for, before the first that somebody did.
#pragma once

#include "runtime/device/device.h"
#include "runtime/pipeline/stage.h"
#include "stages/build_stage.h"

namespace penstock {

/// How many KV blocks warm_up uses.
int64_t warm_up_blocks(const StageSpec& spec);

/// Made-up micro-batches run every half layer that the stage holds, those too that it runs in turns.
proto::Plan empty_made_up_plan(const StageSpec& spec);

/// A row of `tokens` random tokens behind `start` others, of a sequence of its own, in KV blocks from
/// `first_block` on, of `blocks` in all; its next token is drawn.
void add_made_up_row(proto::Plan& plan, const StageSpec& spec, int64_t vocab_size, int64_t start,
                     int64_t tokens, int64_t first_block, int64_t blocks);

/// Hidden states as a stage might get them. Kernels are chosen by how long they take, and with zeros, equal
/// rows or what memory happens to hold a GPU draws less power and multiplies faster than it will, with some
/// kernels more than with others.
Tensor made_up_hidden(Device& device, int64_t tokens, int64_t hidden_size);

/// Runs the stage on made-up micro-batches of every size class up to the largest, so that a GPU's kernels are
/// loaded and chosen, and its memory is taken, before the job's clock runs. The stage has at least
/// warm_up_blocks of cache; what this leaves there is written over before it is read.
void warm_up(Stage& stage, Device& device, const StageSpec& spec, int64_t vocab_size);

}  // namespace penstock
