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

struct FileFacts {
  uint64_t bytes = 0;
  std::string digest;
};

/// Reads the whole file once. Throws Error.
FileFacts facts_of_file(const std::filesystem::path& path);

}  // namespace penstock
