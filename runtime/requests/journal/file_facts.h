// What a job remembers of a file, to see later whether it is still the same. Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace penstock {

/// 128 bits of XXH3: tells changed content apart; no defence against someone who means to deceive.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void add(std::string_view bytes);
  /// Of what was added so far, in hexadecimal.
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Counts lines with something in them, as RowIntake does, however the file is cut into pieces.
class RowCounter {
 public:
  explicit RowCounter(size_t longest_line) : longest_line_(longest_line) {}
  void add(std::string_view bytes);
  uint64_t rows() const { return rows_; }

 private:
  size_t longest_line_;
  uint64_t rows_ = 0;
  size_t blanks_ = 0;      // so far in this line
  bool is_row_ = false;    // this line has been counted
  bool returned_ = false;  // a carriage return that may belong to the line's end
};

struct FileFacts {
  uint64_t bytes = 0;
  uint64_t rows = 0;
  std::string digest;
};

/// Reads the whole file once. A blank line longer than `longest_line` counts as a row. Throws Error.
FileFacts facts_of_file(const std::filesystem::path& path, size_t longest_line);

}  // namespace penstock
