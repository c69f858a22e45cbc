#include "runtime/requests/text/stop_matcher.h"

#include <algorithm>

namespace penstock {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_in_output)
    : include_in_output_(include_in_output) {
  for (std::string& text : stops) {
    Stop stop{std::move(text), {}, 0};
    stop.fallback.assign(stop.text.size(), 0);
    for (size_t i = 1, border = 0; i < stop.text.size(); ++i) {
      while (border > 0 && stop.text[i] != stop.text[border]) border = stop.fallback[border - 1];
      if (stop.text[i] == stop.text[border]) ++border;
      stop.fallback[i] = border;
    }
    stops_.push_back(std::move(stop));
  }
}

void StopMatcher::advance(Stop& stop, char c) {
  if (stop.text.empty()) return;
  while (stop.matched > 0 && stop.text[stop.matched] != c) stop.matched = stop.fallback[stop.matched - 1];
  if (stop.text[stop.matched] == c) ++stop.matched;
}

StopMatcher::Step StopMatcher::push(std::string_view text) {
  Step step;
  if (found_) return step;
  for (size_t i = 0; i < text.size(); ++i) {
    size_t longest = 0;
    for (size_t s = 0; s < stops_.size(); ++s) {
      Stop& stop = stops_[s];
      advance(stop, text[i]);
      if (!stop.text.empty() && stop.matched == stop.text.size() && stop.matched > longest) {
        step.stop = s;
        longest = stop.matched;
      }
    }
    if (step.stop) {
      found_ = true;
      step.text = std::move(held_);
      held_.clear();
      step.text += text.substr(0, i + 1);
      if (!include_in_output_) step.text.resize(step.text.size() - longest);
      return step;
    }
  }
  step.text = release(text);
  return step;
}

std::string StopMatcher::pass(std::string_view text) {
  if (found_) return {};
  for (const char c : text)
    for (Stop& stop : stops_) {
      advance(stop, c);
      // One that is complete here does not count, but another may begin within it.
      if (!stop.text.empty() && stop.matched == stop.text.size()) stop.matched = stop.fallback.back();
    }
  return release(text);
}

std::string StopMatcher::release(std::string_view text) {
  size_t keep = 0;
  for (const Stop& stop : stops_) keep = std::max(keep, stop.matched);
  held_ += text;
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopMatcher::flush() {
  std::string out = std::move(held_);
  held_.clear();
  return out;
}

}  // namespace penstock
