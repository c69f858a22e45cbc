// Finds stop strings in text that arrives piece by piece. One sequence, one thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

/// The match that is complete first wins, of several complete at once the one that began first; so the answer
/// does not depend on how the text was cut into pieces. Empty stop strings never match.
class StopMatcher {
 public:
  /// `include_in_output`: the stop string itself is given out, too.
  StopMatcher(std::vector<std::string> stops, bool include_in_output);

  struct Step {
    std::string text;  ///< what may be shown now: no stop string can still begin before its end
    std::optional<size_t>
        stop;  ///< the place in the list of the stop string found: the sequence is at its end
  };

  /// Takes the next text; after a match all further text is ignored.
  Step push(std::string_view text);
  /// Takes text in which no match may end (of the first min_tokens tokens); one may begin in it.
  std::string pass(std::string_view text);
  /// What was held back at the end of a sequence that no stop string ended.
  std::string flush();

 private:
  struct Stop {
    std::string text;
    std::vector<size_t> fallback;  // Knuth, Morris, Pratt: the longest border of each prefix
    size_t matched = 0;            // bytes of it that end the text so far
  };
  static void advance(Stop& stop, char c);
  std::string release(std::string_view text);

  std::vector<Stop> stops_;
  bool include_in_output_;
  bool found_ = false;
  std::string held_;
};

}  // namespace penstock
