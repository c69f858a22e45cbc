#include "runtime/requests/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace penstock {
namespace {

struct Outcome {
  std::string text;
  std::optional<size_t> stop;
  bool operator==(const Outcome&) const = default;
};

Outcome run(const std::vector<std::string>& stops, const std::vector<std::string>& pieces,
            bool include = false) {
  StopMatcher matcher(stops, include);
  Outcome out;
  for (const std::string& piece : pieces) {
    StopMatcher::Step step = matcher.push(piece);
    out.text += step.text;
    if (step.stop) out.stop = step.stop;
  }
  out.text += matcher.flush();
  return out;
}

TEST(StopMatcher, FindsAStopStringAcrossPieces) {
  EXPECT_EQ(run({"\n\nQ:"}, {"four", ".\n", "\nQ", ": What"}), (Outcome{"four.", 0}));
  EXPECT_EQ(run({"\n\nQ:"}, {"four", ".\n", "\nQ", ": What"}, true), (Outcome{"four.\n\nQ:", 0}));
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStopString) {
  StopMatcher matcher({"abc", "bd"}, false);
  EXPECT_EQ(matcher.push("xxab").text, "xx");
  EXPECT_EQ(matcher.push("x").text, "abx");
  EXPECT_EQ(matcher.push("aab").text, "a");
  EXPECT_EQ(matcher.flush(), "ab");
}

TEST(StopMatcher, TakesTheOneThatIsCompleteFirst) {
  EXPECT_EQ(run({"abcd", "bc"}, {"xabcd"}), (Outcome{"xa", 1}));
  EXPECT_EQ(run({"c", "bc", "abc"}, {"xabc"}),
            (Outcome{"x", 2}));  // of those complete at once, the one that began first
}

TEST(StopMatcher, IgnoresTextBehindAMatchAndEmptyStopStrings) {
  StopMatcher matcher({"", "s"}, false);
  EXPECT_EQ(matcher.push("as").text, "a");
  EXPECT_EQ(matcher.push("more").text, "");
  EXPECT_EQ(run({""}, {"text"}), (Outcome{"text", std::nullopt}));
}

TEST(StopMatcher, LetsTextPassThatIsNotSearched) {
  StopMatcher matcher({"stop"}, false);
  EXPECT_EQ(matcher.push("st").text, "");
  EXPECT_EQ(matcher.pass("op stop"), "stop stop");
  EXPECT_EQ(matcher.push("op").text, "op");
}

TEST(StopMatcher, AMatchMayBeginInTextThatIsNotSearched) {
  StopMatcher matcher({"stop"}, false);
  EXPECT_EQ(matcher.pass("a stopst"), "a stop");
  const StopMatcher::Step step = matcher.push("op");
  EXPECT_EQ(step.text, "");
  EXPECT_EQ(step.stop, 0U);
}

TEST(StopMatcher, AnswersTheSameHoweverTheTextIsCut) {
  std::mt19937 random(7);
  for (int i = 0; i < 3000; ++i) {
    const auto word = [&](size_t most) {
      std::string s;
      for (size_t n = 1 + random() % most; n > 0; --n) s += "ab"[random() % 2];
      return s;
    };
    const std::vector<std::string> stops{word(5), word(6), word(4)};
    const std::string text = word(40);
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + random() % 5;
      pieces.push_back(text.substr(at, n));
      at += n;
    }
    // The definition, read straightforwardly: the shortest prefix that ends in a stop string.
    Outcome expected{text, std::nullopt};
    for (size_t end = 1; end <= text.size() && !expected.stop; ++end) {
      size_t longest = 0;
      for (size_t s = 0; s < stops.size(); ++s) {
        if (text.substr(0, end).ends_with(stops[s]) && stops[s].size() > longest) {
          longest = stops[s].size();
          expected = {text.substr(0, end - longest), s};
        }
      }
    }
    EXPECT_EQ(run(stops, pieces), expected) << text;
  }
}

}  // namespace
}  // namespace penstock
