// Reads back what Hdf5Results wrote, in memory that does not grow with the file. One thread.
#pragma once

#include <filesystem>
#include <memory>

#include "runtime/requests/hdf5/result_row.h"
#include "runtime/requests/hdf5/results_writer.h"

namespace penstock {

class Hdf5ResultsReader {
 public:
  /// Throws UsageError when it is no file of answers.
  explicit Hdf5ResultsReader(const std::filesystem::path& path);
  ~Hdf5ResultsReader();

  uint64_t rows() const;
  /// The attributes, by name, without the layout's version.
  RunSettings settings() const;
  /// The next row; false at the end. Throws Error when reading fails or offsets make no sense.
  bool next(ResultRow& row);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
