#include "runtime/requests/text/normalizer.h"

#include <utf8proc.h>

#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/requests/text/json_fields.h"
#include "runtime/requests/text/regex.h"
#include "runtime/requests/text/splitter.h"
#include "runtime/requests/text/unicode_forms.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

using nlohmann::json;
using Step = Normalizer::Step;

constexpr size_t kMaxSteps = 64;
// A file may replace everything by something longer, many times over; text may not grow beyond this.
constexpr size_t kMostGrowth = 64;
constexpr size_t kRoomForGrowth = size_t{1} << 20;

class FormStep : public Step {
 public:
  explicit FormStep(UnicodeForm form) : form_(form) {}
  bool run(std::string& text, size_t /*bound*/) const override {
    text = to_unicode_form(form_, text);
    return true;
  }

 private:
  UnicodeForm form_;
};

class PrependStep : public Step {
 public:
  explicit PrependStep(std::string prefix) : prefix_(std::move(prefix)) {}
  bool run(std::string& text, size_t /*bound*/) const override {
    if (!text.empty()) text.insert(0, prefix_);
    return true;
  }

 private:
  std::string prefix_;
};

class ReplaceStep : public Step {
 public:
  ReplaceStep(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  bool run(std::string& text, size_t bound) const override {
    const size_t first_character = text.empty() ? 0 : utf8::length(text.front());
    auto [made, cut_from_front] = replaced(pattern_, text, content_, bound);
    text = std::move(made);
    // What stands for a match counts as where its last character was.
    return cut_from_front == 0 || (!content_.empty() && cut_from_front == first_character);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class StripStep : public Step {
 public:
  StripStep(bool left, bool right) : left_(left), right_(right), spaces_(code_points_named("Space")) {}
  bool run(std::string& text, size_t /*bound*/) const override {
    const char* begin = text.data();
    const char* end = begin + text.size();
    const auto is_space = [&](const char* p) { return contains(spaces_, utf8::next(p)); };
    while (right_ && end != begin && is_space(utf8::previous(end))) end = utf8::previous(end);
    const char* first = begin;
    while (left_ && first != end && is_space(first)) first += utf8::length(*first);
    const bool front_stays = first == begin;
    text = std::string(first, end);
    return front_stays;
  }

 private:
  bool left_;
  bool right_;
  CodePointRanges spaces_;
};

/// The lower case of what Unicode 16 and 17 added, which Rust knows.
char32_t lower_since_15(char32_t c) {
  if (c >= 0x10D50 && c <= 0x10D65) return c + 0x20;
  if (c >= 0x16EA0 && c <= 0x16EB8) return c + 0x1B;
  constexpr std::pair<char32_t, char32_t> kPairs[] = {{0x1C89, 0x1C8A}, {0xA7CB, 0x264},  {0xA7CC, 0xA7CD},
                                                      {0xA7CE, 0xA7CF}, {0xA7D2, 0xA7D3}, {0xA7D4, 0xA7D5},
                                                      {0xA7DA, 0xA7DB}, {0xA7DC, 0x19B}};
  for (const auto& [upper, lower] : kPairs) {
    if (upper == c) return lower;
  }
  return c;
}

/// Rust's char::to_lowercase, character by character: without the Greek final sigma.
class LowercaseStep : public Step {
 public:
  bool run(std::string& text, size_t /*bound*/) const override {
    std::string out;
    out.reserve(text.size());
    for (const char* p = text.data(); p != text.data() + text.size();) {
      const char32_t c = utf8::next(p);
      if (c == 0x130) {  // İ: the one character whose lower case is two
        out += "i\u0307";
      } else {
        const auto lower = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
        utf8::append(out, lower == c && c >= 0x1C80 ? lower_since_15(c) : lower);
      }
    }
    text = std::move(out);
    return true;
  }
};

void add_steps(const json& object, std::vector<std::unique_ptr<Step>>& out, int depth) {
  const std::string type = json_fields::type_of(object, "normalizer");
  if (depth > 8 || out.size() >= kMaxSteps) {
    throw UsageError("tokenizer.json: normalizer nests more than 8 sequences or has more than " +
                     std::to_string(kMaxSteps) + " steps.");
  }
  if (type == "Sequence") {
    for (const json& inner : json_fields::required_array(object, "normalizers"))
      add_steps(inner, out, depth + 1);
  } else if (type == "NFC") {
    out.push_back(std::make_unique<FormStep>(UnicodeForm::nfc));
  } else if (type == "NFD") {
    out.push_back(std::make_unique<FormStep>(UnicodeForm::nfd));
  } else if (type == "NFKC") {
    out.push_back(std::make_unique<FormStep>(UnicodeForm::nfkc));
  } else if (type == "NFKD") {
    out.push_back(std::make_unique<FormStep>(UnicodeForm::nfkd));
  } else if (type == "Prepend") {
    out.push_back(std::make_unique<PrependStep>(json_fields::required_text(object, "prepend")));
  } else if (type == "Replace") {
    out.push_back(std::make_unique<ReplaceStep>(json_fields::pattern(object),
                                                json_fields::required_text(object, "content")));
  } else if (type == "Strip") {
    out.push_back(std::make_unique<StripStep>(json_fields::boolean(object, "strip_left", true),
                                              json_fields::boolean(object, "strip_right", true)));
  } else if (type == "Lowercase") {
    out.push_back(std::make_unique<LowercaseStep>());
  } else {
    throw UsageError(
        "tokenizer.json: the normalizer '" + type +
        "' is not supported; expected NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip, Lowercase or Sequence.");
  }
}

}  // namespace

Normalizer Normalizer::parse(const json& object) {
  Normalizer made;
  if (!object.is_null()) add_steps(object, made.steps_, 0);
  return made;
}

bool Normalizer::run(std::string& text) const {
  const size_t bound = kMostGrowth * text.size() + kRoomForGrowth;
  bool front_stays = true;
  for (const auto& step : steps_) front_stays &= step->run(text, bound);
  return front_stays;
}

}  // namespace penstock
