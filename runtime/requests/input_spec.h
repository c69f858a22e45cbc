// What a job reads: a file, or a part of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "runtime/requests/line_source.h"

namespace penstock {

/// Part `index` of `count`: ranges in the file's order, so that the parts' answers, one after the other, are
/// the whole file's.
struct Shard {
  uint64_t index = 0;
  uint64_t count = 1;
  bool whole() const { return count == 1; }
  std::string text() const { return std::to_string(index) + "/" + std::to_string(count); }
};

/// "I/N", I from 0 to N - 1. Throws UsageError.
Shard parse_shard(const std::string& text);

struct Range {
  uint64_t begin = 0;
  uint64_t end = 0;
};
/// The shard's part of `size` things: the parts of all shards are disjoint and leave nothing out.
Range range_of(const Shard& shard, uint64_t size);

struct InputSpec {
  std::filesystem::path path;  ///< "-" is standard input
  Shard shard;
  std::string dataset;  ///< of an HDF5 file: where its prompts are; empty: "prompts"
  std::string body;     ///< of an HDF5 file: a JSON object, fields of every request; may be empty
};

/// By the file's name: .h5 and .hdf5 are HDF5.
bool is_hdf5(const std::filesystem::path& path);

/// Opens it. Throws UsageError when it cannot be read, is not what it should be, or cannot be divided.
std::unique_ptr<LineSource> open_lines(const InputSpec& input, size_t longest_line);

}  // namespace penstock
