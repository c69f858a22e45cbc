// Data sets that grow at their end, a chunk's worth at a time. Inside runtime/requests/hdf5/ only. What a
// column holds back is written by flush(), which the owner calls before the file is closed.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/requests/hdf5/handles.h"

namespace penstock {

using ShortText = std::array<char, 16>;  ///< cut, padded with zeros

/// Values of one type in one dimension (width 1) or as rows of a table whose width may grow. Compressed.
template <class T>
class Column {
 public:
  /// `fill` is what entries hold that were never given.
  Column(const Hdf5Id& group, const std::string& name, T fill, bool table = false);

  void append(T value);
  /// Rows of a table. A row narrower than the widest so far is filled up.
  void append_row(const std::vector<T>& row);
  /// Entries up to `length` hold the fill value.
  void fill_to(uint64_t length);
  void flush();
  uint64_t length() const { return written_ + pending_.size() / width_; }

 private:
  void widen(size_t width);
  void create(size_t width);

  const hid_t group_;
  const std::string name_;
  const T fill_;
  const bool table_;
  size_t width_ = 1;
  Hdf5Id dataset_;
  uint64_t written_ = 0;
  std::vector<T> pending_;
};

/// UTF-8 strings of any length; HDF5 keeps them in heaps, which it does not compress.
class TextColumn {
 public:
  TextColumn(const Hdf5Id& group, const std::string& name);
  void append(std::string text);
  void flush();
  uint64_t length() const { return written_ + pending_.size(); }

 private:
  const std::string name_;
  Hdf5Id type_;
  Hdf5Id dataset_;
  uint64_t written_ = 0;
  size_t pending_bytes_ = 0;
  std::vector<std::string> pending_;
};

}  // namespace penstock
