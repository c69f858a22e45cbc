// From the journal to HDF5.
#pragma once

#include "proto/journal.pb.h"
#include "runtime/requests/hdf5/result_row.h"

namespace penstock {

/// The line as OpenAI Batch writes it, and the choices' numbers, put together. Throws Error when the two do
/// not belong together.
ResultRow result_row_of(const proto::FinishedRow& finished);

}  // namespace penstock
