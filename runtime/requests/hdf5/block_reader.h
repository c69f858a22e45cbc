// Reads blocks of one-dimensional HDF5 data sets into memory that is bounded whatever the file claims. Inside
// runtime/requests/hdf5/ only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "runtime/requests/hdf5/handles.h"

namespace penstock {

/// Opens for reading; a lock of the file is not asked of file systems that have none. Throws UsageError.
Hdf5Id open_hdf5(const std::filesystem::path& path);

/// Entries [begin, begin + count) of a data set, as a selection in its file.
Hdf5Id select_entries(const Hdf5Id& dataset, uint64_t begin, uint64_t count, const std::string& name);

/// Length of a data set that must have one dimension. Throws UsageError with the data set's name.
uint64_t entries_of(const Hdf5Id& dataset, const std::string& name);

/// A data set of integers of any width.
class IntegerReader {
 public:
  IntegerReader(Hdf5Id dataset, std::string name);
  uint64_t size() const { return size_; }
  /// `begin` + `count` is at most size().
  std::vector<int64_t> read(uint64_t begin, uint64_t count);

 private:
  Hdf5Id dataset_;
  std::string name_;
  uint64_t size_;
};

/// A data set of strings, of variable or fixed length.
class StringReader {
 public:
  StringReader(Hdf5Id dataset, std::string name);
  uint64_t size() const { return size_; }
  /// False, with nothing read, when the strings take more than `most_bytes` together. Bytes as the file has
  /// them; a fixed string ends before its padding.
  bool read(uint64_t begin, uint64_t count, size_t most_bytes, std::vector<std::string>& strings);

 private:
  bool read_variable(uint64_t begin, uint64_t count, size_t most_bytes, std::vector<std::string>& strings);
  bool read_fixed(uint64_t begin, uint64_t count, size_t most_bytes, std::vector<std::string>& strings);

  Hdf5Id dataset_;
  std::string name_;
  uint64_t size_;
  Hdf5Id type_;        // in memory
  size_t fixed_size_;  // 0: variable
};

}  // namespace penstock
