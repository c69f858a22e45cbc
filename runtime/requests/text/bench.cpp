#include "runtime/requests/text/bench.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <random>

#include "runtime/requests/text/tokenizer.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

constexpr size_t kAdversarialBytes = 1'000'000;

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// Of the processor, so that what else runs on the machine is not counted.
template <typename F>
double seconds(F&& work) {
  const double start = thread_seconds();
  work();
  return thread_seconds() - start;
}

std::string repeated(std::string_view unit) {
  std::string out;
  while (out.size() < kAdversarialBytes) out += unit;
  return out;
}

std::string random_letters() {
  std::mt19937 random(1);
  std::string out;
  while (out.size() < kAdversarialBytes) out += static_cast<char>('a' + random() % 26);
  return out;
}

std::string random_characters() {
  std::mt19937 random(2);
  std::string out;
  while (out.size() < kAdversarialBytes) {
    const auto c = static_cast<char32_t>(random() % 0x11000);
    if (c < 0xD800 || c > 0xDFFF) utf8::append(out, c);
  }
  return out;
}

}  // namespace

TokenizerSpeed measure_tokenizer(const std::filesystem::path& path, std::string_view text, int repeats) {
  TokenizerSpeed speed;
  const auto best = [&](const std::string& name, std::string_view input, bool cold) {
    double least = 1e30;
    size_t tokens = 0;
    std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::load(path);
    for (int i = 0; i < repeats; ++i) {
      if (cold && i > 0) tokenizer = Tokenizer::load(path);
      if (!cold && i == 0) tokenizer->encode(input, false);
      least = std::min(least, seconds([&] { tokens = tokenizer->encode(input, false).size(); }));
    }
    speed.cases.push_back({name, input.size(), tokens, static_cast<double>(input.size()) / least / 1e6});
  };
  best("cold", text, true);
  best("warm", text, false);
  best("one letter", repeated("a"), true);
  best("spaces", repeated(" "), true);
  best("newlines", repeated("\n"), true);
  best("digits", repeated("7"), true);
  best("emoji", repeated("\U0001F999"), true);
  best("random letters", random_letters(), true);
  best("random characters", random_characters(), true);

  volatile uint64_t sink = 0;  // keeps the reads
  double least = 1e30;
  for (int i = 0; i < std::max(repeats, 3); ++i) {
    least = std::min(least, seconds([&] {
                       uint64_t sum = 0;
                       for (size_t at = 0; at + 8 <= text.size(); at += 8) {
                         uint64_t word;
                         std::memcpy(&word, text.data() + at, 8);
                         sum += word;
                       }
                       sink = sink + sum;
                     }));
  }
  speed.read_bound_mb_per_s = static_cast<double>(text.size()) / std::max(least, 1e-9) / 1e6;
  return speed;
}

}  // namespace penstock
