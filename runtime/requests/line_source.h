// Where requests come from, one JSON line each: a file of lines, or HDF5 data sets made into lines.
#pragma once

#include <cstdint>
#include <string>

namespace penstock {

/// One thread; the two counts and interrupt() any thread.
class LineSource {
 public:
  enum class Status { line, too_long, end };

  virtual ~LineSource() = default;
  /// The next line, without its newline. A line longer than the source's limit is passed over. Throws Error
  /// when reading fails.
  virtual Status next(std::string& line) = 0;
  /// From now on next() ends rather than waits for more input, also one that waits already. A line that is
  /// not there whole is not given.
  virtual void interrupt() = 0;
  /// Of the line given last, counted from 1 at the start of the whole file, whatever part of it is read.
  virtual uint64_t line_number() const = 0;

  /// Bytes of the part that is read, 0 when unknown; and how many have been read. For progress.
  virtual uint64_t total_bytes() const = 0;
  virtual uint64_t bytes_read() const = 0;
};

}  // namespace penstock
