#include "runtime/requests/input_spec.h"

#include <charconv>

#include "runtime/base/error.h"
#include "runtime/requests/hdf5/prompts.h"
#include "runtime/requests/line_reader.h"

namespace penstock {

Shard parse_shard(const std::string& text) {
  Shard shard;
  const char* end = text.data() + text.size();
  const auto index = std::from_chars(text.data(), end, shard.index);
  if (index.ec == std::errc() && index.ptr != end && *index.ptr == '/') {
    const auto count = std::from_chars(index.ptr + 1, end, shard.count);
    if (count.ec == std::errc() && count.ptr == end && shard.index < shard.count) return shard;
  }
  throw UsageError("--shard: expected I/N with I from 0 to N - 1, such as 0/4, found '" + text + "'");
}

Range range_of(const Shard& shard, uint64_t size) {
  // size * index / count, without overflow
  const auto begin_of = [&](uint64_t index) {
    return size / shard.count * index + size % shard.count * index / shard.count;
  };
  return {begin_of(shard.index), begin_of(shard.index + 1)};
}

bool is_hdf5(const std::filesystem::path& path) {
  return path.extension() == ".h5" || path.extension() == ".hdf5";
}

std::unique_ptr<LineSource> open_lines(const InputSpec& input, size_t longest_line) {
  if (is_hdf5(input.path)) return std::make_unique<Hdf5Prompts>(input, longest_line);
  if (!input.dataset.empty() || !input.body.empty())
    throw UsageError(std::string(input.dataset.empty() ? "--input-body" : "--input-dataset") +
                     ": expected an HDF5 input, whose name ends in .h5 or .hdf5, found --input-file " +
                     input.path.string());
  return std::make_unique<LineReader>(input.path, longest_line, input.shard);
}

}  // namespace penstock
