// Checks of flags whose messages say what was expected and what was found, where CLI11's own do not.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace penstock {

/// Of a flag that counts something: a whole number from `least` on.
inline CLI::Validator at_least(int64_t least) {
  return {[least](const std::string& text) {
            int64_t value = 0;
            const char* const end = text.data() + text.size();
            const auto [stopped, error] = std::from_chars(text.data(), end, value);
            if (error == std::errc{} && stopped == end && value >= least) return std::string();
            return "expected a whole number from " + std::to_string(least) + ", found '" + text + "'";
          },
          "from " + std::to_string(least)};
}

/// A flag that takes one of some words, each of which means a value of `to`.
template <class T>
CLI::Option* add_choice(CLI::App& app, const std::string& flag, T& to,
                        const std::map<std::string, T>& choices, const std::string& help) {
  std::vector<std::string> words;
  for (const auto& [word, value] : choices) words.push_back(word);
  return app
      .add_option_function<std::string>(
          flag, [&to, choices](const std::string& word) { to = choices.at(word); }, help)
      ->check(CLI::IsMember(words));
}

}  // namespace penstock
