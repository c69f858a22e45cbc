// The hand-built scanner must cut as Oniguruma does.
#include <gtest/gtest.h>

#include <chrono>

#include "runtime/base/error.h"
#include "runtime/requests/text/run_pattern.h"
#include "runtime/requests/text/splitter.h"
#include "tests/unit/text_data.h"

namespace penstock {
namespace {

const char* const kPatterns[] = {
    // GPT-2, Llama 3, Qwen 2, cl100k, o200k, Tekken, DeepSeek V3, DeepSeek LLM's parts, and shapes that need
    // backtracking
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    "[\r\n]",
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺＡ-Ｚａ-ｚ𐐀-𐑏]+)",
    R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)",
    R"(\s+$)",
    R"([一-龥ࠀ-一가-퟿]+)",
    R"(\p{N}{1,3})",
    R"(\d{2,4}x?|\w+(?=\s)|\S{3,}\P{L})",
    R"([a-c]*b[a-c]{2}|\s*x)",
};

std::vector<std::pair<size_t, size_t>> scanner_matches(const RunPattern& pattern, std::string_view text) {
  std::vector<std::pair<size_t, size_t>> out;
  for (Span found = pattern.find(text, 0); found.begin < found.end; found = pattern.find(text, found.end)) {
    out.emplace_back(found.begin, found.end);
  }
  return out;
}

std::vector<std::pair<size_t, size_t>> regex_matches(const Regex& regex, std::string_view text) {
  std::vector<std::pair<size_t, size_t>> out;
  Regex::Matches matches(regex, text);
  while (const auto found = matches.next()) out.emplace_back(found->begin, found->end);
  return out;
}

TEST(SplitPattern, ScansAsOnigurumaDoes) {
  std::mt19937 random(11);
  for (const char* source : kPatterns) {
    const auto scanner = RunPattern::compile(source);
    ASSERT_NE(scanner, nullptr) << source;
    const Regex regex(source);
    for (int i = 0; i < 400; ++i) {
      std::string text = testing_data::random_text(random, 30);
      for (const char* piece : {"'S", "'ll ", "ab\n\n", "  \t", "123456", "'\u017f", "abcabcab", "Don't  ",
                                " \r\n", "\u0130\u212a"}) {
        if (random() % 4 == 0) text += piece;
        if (random() % 8 == 0) text.insert(0, piece);
      }
      ASSERT_EQ(scanner_matches(*scanner, text), regex_matches(regex, text)) << source << "\n" << text;
    }
  }
}

TEST(SplitPattern, ScansEveryCharacterOfUnicodeAsOnigurumaDoes) {
  const char* source = kPatterns[1];
  const auto scanner = RunPattern::compile(source);
  const Regex regex(source);
  std::string text;
  for (char32_t c = 1; c <= 0x10FFFF; c += c < 0x3000 ? 1 : 37) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    utf8::append(text, c);
    if (c % 3 == 0) text += " a1";
    if (text.size() < 2000) continue;
    ASSERT_EQ(scanner_matches(*scanner, text), regex_matches(regex, text));
    text.clear();
  }
}

TEST(SplitPattern, LeavesWhatItDoesNotKnowToOniguruma) {
  for (const char* source : {"(a)(b)", "a(?<=b)", "a*", "(?i)abc", "[a&&b]", "a.b", "a+?", "^a", "(?i:st)",
                             R"(\bfoo\b)", "[[:alpha:]]", "(?:ab)+"}) {
    EXPECT_EQ(RunPattern::compile(source), nullptr) << source;
  }
}

TEST(SplitPattern, ScansLongRunsInLinearTime) {
  for (const char* source : kPatterns) {
    const auto scanner = RunPattern::compile(source);
    for (const std::string unit : {" ", "a", "A", "\u4e00", "1", "\n", "!"}) {
      std::string text;
      while (text.size() < 300'000) text += unit;
      text += "~x";
      const auto start = std::chrono::steady_clock::now();
      scanner_matches(*scanner, text);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      EXPECT_LT(took.count(), 8.0) << source << " '" << unit << "'";  // quadratic would be minutes
    }
  }
}

std::vector<std::string> split(SplitBehavior behavior, bool invert, const std::string& text) {
  std::vector<std::string> out;
  const Pattern comma = Pattern::literal(",");
  PieceBuilder pieces(behavior, invert,
                      [&](Span span) { out.push_back(text.substr(span.begin, span.end - span.begin)); });
  comma.for_each_match(text, [&](Span span) { pieces.match(span); });
  pieces.finish(text.size());
  return out;
}

TEST(SplitPattern, CutsByEveryBehaviour) {
  using Pieces = std::vector<std::string>;
  const std::string text = ",a,,b,";
  EXPECT_EQ(split(SplitBehavior::isolated, false, text), (Pieces{",", "a", ",", ",", "b", ","}));
  EXPECT_EQ(split(SplitBehavior::removed, false, text), (Pieces{"a", "b"}));
  EXPECT_EQ(split(SplitBehavior::removed, true, text), (Pieces{",", ",", ",", ","}));
  EXPECT_EQ(split(SplitBehavior::merged_with_previous, false, text), (Pieces{",", "a,", ",", "b,"}));
  EXPECT_EQ(split(SplitBehavior::merged_with_next, false, text), (Pieces{",a", ",", ",b", ","}));
  EXPECT_EQ(split(SplitBehavior::contiguous, false, text), (Pieces{",", "a", ",,", "b", ","}));
}

}  // namespace
}  // namespace penstock
