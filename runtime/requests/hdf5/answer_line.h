// From HDF5 back to a line of answers.
#pragma once

#include <string>

#include "runtime/requests/hdf5/result_row.h"

namespace penstock {

/// The line that the row had, as far as the file tells: a completion of `model`, its tokens spelled
/// token_id:7 as without a tokenizer. What is not in the file: docs/formats.md, "Output: HDF5".
std::string answer_line(ResultRow row, const std::string& model);

}  // namespace penstock
