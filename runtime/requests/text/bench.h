// How fast a tokenizer is, for 'penstock bench tokenizer'. Runs on the calling thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

struct TokenizerSpeed {
  struct Case {
    std::string name;
    size_t bytes;
    size_t tokens;
    double mb_per_s;  ///< 10^6 bytes of UTF-8 a second of processor time
  };
  std::vector<Case> cases;  ///< "cold" (no piece seen before), "warm" (again), then adversarial texts of 1 MB
  double read_bound_mb_per_s = 0;  ///< reading the same text once, eight bytes at a time: the ceiling
};

/// Encodes `text` as one input on one thread. `tokenizer` is what Tokenizer::load takes; it is loaded
/// afresh for every cold run. Each figure is the best of `repeats`. Throws what load and encode throw.
TokenizerSpeed measure_tokenizer(const std::filesystem::path& tokenizer, std::string_view text,
                                 int repeats = 3);

}  // namespace penstock
