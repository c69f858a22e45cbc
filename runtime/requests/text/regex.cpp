#include "runtime/requests/text/regex.h"

#include <oniguruma.h>

#include <algorithm>
#include <mutex>

#include "runtime/base/error.h"
#include "runtime/requests/text/unicode_versions.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

// Oniguruma's own default for one match attempt, which is also Hugging Face's; and a bound for a whole
// search, so that a pattern that is quadratic in the text becomes an error and not a hang (about two seconds
// of work).
constexpr unsigned long kStepsPerMatch = 10'000'000;
constexpr unsigned long kStepsPerSearch = 100'000'000;

CodePointRanges meaning_of(const std::string& name) {
  OnigEncoding utf8 = ONIG_ENCODING_UTF8;
  std::string copy = name;
  auto* p = reinterpret_cast<OnigUChar*>(copy.data());
  const int ctype = utf8->property_name_to_ctype(utf8, p, p + copy.size());
  if (ctype < 0) return {};
  OnigCodePoint single_byte_end = 0;
  const OnigCodePoint* ranges = nullptr;
  if (utf8->get_ctype_code_range(static_cast<OnigCtype>(ctype), &single_byte_end, &ranges) != 0) return {};
  CodePointRanges out;
  for (OnigCodePoint i = 0; i < ranges[0]; ++i) out.emplace_back(ranges[1 + 2 * i], ranges[2 + 2 * i]);
  return united(std::move(out));
}

void start_oniguruma() {
  static std::once_flag once;  // the library has one start-up call a process
  std::call_once(once, [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
    teach_oniguruma_unicode_16(meaning_of);
  });
}

// What [:punct:] means to the Oniguruma of Hugging Face's library, and to those of 6.9.9 on: symbols too.
std::string with_punctuation_spelled_out(const std::string& pattern) {
  constexpr std::string_view kName = "[:punct:]";
  std::string out;
  int brackets = 0;
  for (size_t at = 0; at < pattern.size(); ++at) {
    if (brackets > 0 && pattern.compare(at, kName.size(), kName) == 0) {
      out += R"(\p{P}\p{S})";
      at += kName.size() - 1;
      continue;
    }
    brackets += pattern[at] == '[' ? 1 : pattern[at] == ']' && brackets > 0 ? -1 : 0;
    out += pattern[at];
    if (pattern[at] == '\\' && at + 1 < pattern.size()) out += pattern[++at];
  }
  return out;
}

const OnigUChar* bytes(std::string_view s) {
  return reinterpret_cast<const OnigUChar*>(s.data());
}

std::string describe(int code, OnigErrorInfo* info) {
  OnigUChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int n =
      info != nullptr ? onig_error_code_to_str(text, code, info) : onig_error_code_to_str(text, code);
  return {reinterpret_cast<char*>(text), static_cast<size_t>(n)};
}

struct FreeRegion {
  void operator()(OnigRegion* region) const { onig_region_free(region, 1); }
};
struct FreeParam {
  void operator()(OnigMatchParam* param) const { onig_free_match_param(param); }
};

}  // namespace

void Regex::Free::operator()(re_pattern_buffer* regex) const {
  onig_free(regex);
}

Regex::Regex(const std::string& pattern) : pattern_(pattern) {
  start_oniguruma();
  OnigRegex made = nullptr;
  OnigErrorInfo info{};
  const std::string spelled = with_punctuation_spelled_out(pattern);
  const int code = onig_new(&made, bytes(spelled), bytes(spelled) + spelled.size(), ONIG_OPTION_NONE,
                            ONIG_ENCODING_UTF8, ONIG_SYNTAX_DEFAULT, &info);
  if (code != ONIG_NORMAL) {
    throw UsageError("The regular expression '" + pattern +
                     "' is not one that Oniguruma accepts: " + describe(code, &info) + ".");
  }
  regex_.reset(made);
}

struct Regex::Matches::Scratch {
  std::unique_ptr<OnigRegion, FreeRegion> region{onig_region_new()};
  std::unique_ptr<OnigMatchParam, FreeParam> param{onig_new_match_param()};
};

Regex::Matches::Matches(const Regex& regex, std::string_view text)
    : regex_(regex), text_(text), scratch_(std::make_unique<Scratch>()) {
  onig_initialize_match_param(scratch_->param.get());
  onig_set_retry_limit_in_match_of_match_param(scratch_->param.get(), kStepsPerMatch);
  onig_set_retry_limit_in_search_of_match_param(scratch_->param.get(), kStepsPerSearch);
}

Regex::Matches::~Matches() = default;

std::optional<Span> Regex::Matches::next() {
  const OnigUChar* begin = bytes(text_);
  const OnigUChar* end = begin + text_.size();
  while (from_ <= text_.size()) {
    const int at = onig_search_with_param(regex_.regex_.get(), begin, end, begin + from_, end,
                                          scratch_->region.get(), ONIG_OPTION_NONE, scratch_->param.get());
    if (at == ONIG_MISMATCH) return std::nullopt;
    if (at < 0) {
      throw Error("The regular expression '" + regex_.pattern_ + "' could not be searched in a text of " +
                  std::to_string(text_.size()) + " bytes: " + describe(at, nullptr) + ".");
    }
    const Span found{static_cast<size_t>(scratch_->region->beg[0]),
                     static_cast<size_t>(scratch_->region->end[0])};
    if (found.begin == found.end && last_end_ == found.end) {
      from_ += from_ < text_.size() ? utf8::length(text_[from_]) : 1;
      continue;
    }
    from_ = found.end;
    last_end_ = found.end;
    return found;
  }
  return std::nullopt;
}

CodePointRanges code_points_named(const std::string& name) {
  start_oniguruma();
  return meaning_of(name);
}

CodePointRanges rust_word_code_points() {
  CodePointRanges all{{0x200C, 0x200D}};
  for (const char* name : {"Alphabetic", "L", "M", "Nd", "Pc"}) {
    const CodePointRanges one = code_points_named(name);
    all.insert(all.end(), one.begin(), one.end());
  }
  return united(std::move(all));
}

CodePointRanges united(CodePointRanges ranges) {
  std::sort(ranges.begin(), ranges.end());
  CodePointRanges out;
  for (const auto& [first, last] : ranges) {
    if (!out.empty() && first <= out.back().second + 1) {
      out.back().second = std::max(out.back().second, last);
    } else {
      out.emplace_back(first, last);
    }
  }
  return out;
}

CodePointRanges complement(const CodePointRanges& ranges) {
  CodePointRanges out;
  char32_t next = 0;
  for (const auto& [first, last] : ranges) {
    if (first > next) out.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next <= 0x10FFFF) out.emplace_back(next, 0x10FFFF);
  return out;
}

bool contains(const CodePointRanges& ranges, char32_t c) {
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), c,
                                      [](char32_t value, const auto& range) { return value < range.first; });
  return after != ranges.begin() && c <= std::prev(after)->second;
}

}  // namespace penstock
