// Prompts in an HDF5 file, given as request lines. Layout: docs/formats.md, "Input: HDF5".
#pragma once

#include <memory>

#include "runtime/requests/input_spec.h"

namespace penstock {

class Hdf5Prompts final : public LineSource {
 public:
  /// Throws UsageError when the file, its data sets or the body are not what docs/formats.md says. A line may
  /// have `longest_line` bytes.
  Hdf5Prompts(const InputSpec& input, size_t longest_line);
  ~Hdf5Prompts() override;

  /// A row that would make a longer line is passed over as too long. Throws Error when reading fails or
  /// offsets make no sense.
  Status next(std::string& line) override;
  void interrupt() override {}  // a file never keeps waiting
  uint64_t line_number() const override;
  uint64_t total_bytes() const override;
  uint64_t bytes_read() const override;

  /// Rows of the input's part.
  uint64_t rows() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
