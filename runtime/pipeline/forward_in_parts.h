// A forward that gives way when memory runs out: it is tried again in two halves, and these again. Rows and
// positions are computed independently of what shares their micro-batch, so the bits stay the same.
#pragma once

#include <functional>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/pipeline/stage.h"

namespace penstock {

/// As stage.start. `ran_out` is called each time a forward is cut in two; a single token that does not fit
/// throws OutOfMemory.
DrawingPtr forward_in_parts(Stage& stage, Device& device, const proto::Plan& plan, TensorView in_TD,
                            TensorView out_TD, const std::function<void()>& ran_out);

}  // namespace penstock
