// Answers as an HDF5 file. Layout: docs/formats.md, "Output: HDF5". The same rows and settings make the same
// bytes: the file holds no times. One thread.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/requests/hdf5/result_row.h"

namespace penstock {

/// Names and values that decide the answers, kept as attributes of the file.
using RunSettings = std::vector<std::pair<std::string, std::string>>;

class Hdf5Results {
 public:
  /// Writes beside `target`. Throws Error when the file cannot be made.
  Hdf5Results(const std::filesystem::path& target, const RunSettings& settings);
  /// Without finish() what was written is removed.
  ~Hdf5Results();
  Hdf5Results(const Hdf5Results&) = delete;
  Hdf5Results& operator=(const Hdf5Results&) = delete;

  /// The next row of the input. Throws Error when the disk is full.
  void add(const ResultRow& row);
  /// Makes everything durable and gives the file its name.
  void finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
