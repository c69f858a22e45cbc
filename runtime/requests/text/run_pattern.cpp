#include "runtime/requests/text/run_pattern.h"

#include <algorithm>
#include <map>

#include "runtime/base/error.h"
#include "runtime/requests/text/run_pattern_parser.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

using Element = RunPattern::Element;
using Kind = Element::Kind;

constexpr size_t kMaxAlternatives = 32;
constexpr size_t kCodePoints = 0x110000;

size_t lead_byte(char32_t c) {
  return c < 0x80 ? c : c < 0x800 ? 0xC0 | c >> 6 : c < 0x10000 ? 0xE0 | c >> 12 : 0xF0 | c >> 18;
}

/// The class with the fewest ASCII characters of which a match of `alternative` must have one.
uint32_t needed_class(const RunPattern::Alternative& alternative, const ClassTable& table) {
  uint32_t best = 0;
  size_t least = SIZE_MAX;
  for (const Element& e : alternative) {
    if (e.min == 0 || (e.kind != Kind::run && e.kind != Kind::words)) continue;
    uint32_t bits = e.bit;
    for (const auto& word : e.words) bits |= word.front();
    const auto size =
        static_cast<size_t>(std::count_if(table.ascii(), table.ascii() + 128,
                                          [&](uint32_t of_character) { return (of_character & bits) != 0; }));
    if (size >= least) continue;
    least = size;
    best = bits;
  }
  return best;
}

RunPattern::Simple simple_form(const RunPattern::Alternative& alternative) {
  RunPattern::Simple out;
  size_t i = 0;
  const auto is_run = [&](uint32_t min, uint32_t max) {
    return i < alternative.size() && alternative[i].kind == Kind::run && alternative[i].min == min &&
           alternative[i].max == max;
  };
  if (is_run(0, 1) && !alternative[i].keeps_all) out.head = alternative[i++].bit;
  if (!is_run(1, UINT32_MAX)) return {};
  const uint32_t body = alternative[i++].bit;
  if (is_run(0, UINT32_MAX)) out.tail = alternative[i++].bit;
  if (i < alternative.size()) return {};
  out.body = body;
  return out;
}

/// May this alternative begin with a character whose class bits are `bits`, or match without one (`empty`)?
bool may_begin(const RunPattern::Alternative& alternative, uint32_t bits, bool& empty) {
  for (const Element& e : alternative) {
    if (e.kind == Kind::run && (e.bit & bits) != 0) return true;
    if (e.kind == Kind::words) {
      for (const auto& word : e.words) {
        if ((word[0] & bits) != 0) return true;
      }
    }
    if ((e.kind == Kind::run || e.kind == Kind::words) && e.min > 0) return false;
  }
  empty = true;
  return true;
}

}  // namespace

ClassTable::ClassTable(const std::vector<CodePointRanges>& classes) {
  std::vector<uint32_t> flat(kCodePoints, 0);
  for (size_t i = 0; i < classes.size(); ++i) {
    for (const auto& [first, last] : classes[i]) {
      for (char32_t c = first; c <= last; ++c) flat[c] |= uint32_t{1} << i;
    }
  }
  std::copy_n(flat.begin(), ascii_.size(), ascii_.begin());
  for (char32_t c = 0; c < kCodePoints; ++c) first_byte_[lead_byte(c)] |= flat[c];
  std::map<std::vector<uint32_t>, uint16_t> known;
  for (size_t page = 0; page < kCodePoints / 256; ++page) {
    const auto from = flat.begin() + static_cast<ptrdiff_t>(page * 256);
    const auto [entry, fresh] =
        known.try_emplace(std::vector<uint32_t>(from, from + 256), static_cast<uint16_t>(known.size()));
    if (fresh) pages_.insert(pages_.end(), entry->first.begin(), entry->first.end());
    page_of_.push_back(entry->second);
  }
}

// One search: where the text ends, and how much work is left.
struct RunPattern::Matcher {
  const ClassTable& table;
  const char* end;
  uint64_t steps;
  bool exhausted = false;

  uint32_t bits_at(const char*& p) const {
    const auto b = static_cast<unsigned char>(*p);
    if (b < 0x80) return ++p, table.ascii()[b];
    return table[utf8::next(p)];
  }

  const char* run_end(const Element& e, const char* p, uint32_t& count) const {
    const uint32_t* ascii = table.ascii();
    while (count < e.max && p != end) {
      const auto b = static_cast<unsigned char>(*p);
      if (b < 0x80) {
        if ((ascii[b] & e.bit) == 0) break;
        ++p;
      } else {
        const char* after = p;
        if ((table[utf8::next(after)] & e.bit) == 0) break;
        p = after;
      }
      ++count;
    }
    return p;
  }

  const char* simple_run(uint32_t bit, const char* p) const {
    const uint32_t* ascii = table.ascii();
    while (p != end) {
      const auto b = static_cast<unsigned char>(*p);
      if (b < 0x80) {
        if ((ascii[b] & bit) == 0) break;
        ++p;
      } else {
        const char* after = p;
        if ((table[utf8::next(after)] & bit) == 0) break;
        p = after;
      }
    }
    return p;
  }

  const char* match(const Simple& simple, const char* p) const {
    const char* q = p;
    if (simple.head != 0 && (bits_at(q) & simple.head) != 0) {
      const char* body_end = simple_run(simple.body, q);
      if (body_end != q) return simple.tail == 0 ? body_end : simple_run(simple.tail, body_end);
    }
    const char* body_end = simple_run(simple.body, p);
    if (body_end == p) return nullptr;
    return simple.tail == 0 ? body_end : simple_run(simple.tail, body_end);
  }

  const char* word_end(const std::vector<uint32_t>& word, const char* p) const {
    for (const uint32_t bit : word) {
      if (p == end || (bits_at(p) & bit) == 0) return nullptr;
    }
    return p;
  }

  // Where the elements from `e` on match at `p`; nullptr when they do not.
  const char* match(const Element* e, const Element* last, const char* p) {
    for (; e != last; ++e) {
      switch (e->kind) {
        case Kind::run: {
          uint32_t count = 0;
          const char* q = run_end(*e, p, count);
          if (count < e->min) return nullptr;
          if (e->keeps_all || e + 1 == last) {
            p = q;
            break;
          }
          for (;; q = utf8::previous(q), --count) {
            if (const char* found = match(e + 1, last, q)) return found;
            if (count == e->min) return nullptr;
            if (steps == 0) exhausted = true;
            if (exhausted) return nullptr;
            --steps;
          }
        }
        case Kind::words: {
          for (const auto& word : e->words) {
            const char* q = word_end(word, p);
            if (q == nullptr) continue;
            if (const char* found = match(e + 1, last, q)) return found;
            if (e->keeps_all) return nullptr;
          }
          if (e->min > 0) return nullptr;
          break;
        }
        case Kind::followed_by:
        case Kind::not_followed_by: {
          const char* q = p;
          const bool followed = p != end && (bits_at(q) & e->bit) != 0;
          if (followed != (e->kind == Kind::followed_by)) return nullptr;
          break;
        }
        case Kind::end_of_line: {
          const char* q = p;
          if (p != end && (bits_at(q) & e->bit) == 0) return nullptr;
          break;
        }
      }
    }
    return p;
  }
};

RunPattern::RunPattern(std::vector<Alternative> alternatives, const std::vector<CodePointRanges>& classes)
    : alternatives_(std::move(alternatives)), table_(classes) {
  for (const Alternative& alternative : alternatives_) simple_.push_back(simple_form(alternative));
  if (alternatives_.size() == 1 && alternatives_[0].size() == 2 && alternatives_[0][0].kind == Kind::run &&
      alternatives_[0][1].kind == Kind::end_of_line) {
    before_line_end_ = alternatives_[0][0].bit;
  }
  for (Alternative& alternative : alternatives_) {
    for (size_t i = 0; i + 1 < alternative.size(); ++i) {
      // When no character of a run can begin what must follow, giving characters back never helps.
      const Element& next = alternative[i + 1];
      uint32_t all = 0;
      for (size_t c = 0; c < classes.size(); ++c) {
        if (alternative[i].bit != uint32_t{1} << c) continue;
        for (size_t d = 0; d < classes.size(); ++d) {
          CodePointRanges both = classes[c];
          both.insert(both.end(), classes[d].begin(), classes[d].end());
          const auto size = [](const CodePointRanges& ranges) {
            size_t n = 0;
            for (const auto& [first, last] : ranges) n += last - first + 1;
            return n;
          };
          if (size(united(both)) != size(classes[c]) + size(classes[d])) all |= uint32_t{1} << d;
        }
      }
      if (alternative[i].kind == Kind::run && next.kind == Kind::run && next.min > 0 &&
          (all & next.bit) == 0) {
        alternative[i].keeps_all = true;
      }
    }
  }
  const auto any = [&](uint32_t bits) {
    uint32_t mask = 0;
    bool empty = false;
    for (size_t i = 0; i < alternatives_.size(); ++i) {
      if (may_begin(alternatives_[i], bits, empty)) mask |= uint32_t{1} << i;
    }
    return mask;
  };
  // A lead byte stands for many characters: it may begin what any of them may begin.
  for (size_t b = 0; b < 0x80; ++b) starts_[b] = any(table_.ascii()[b]);
  for (const Alternative& alternative : alternatives_) needed_ |= needed_class(alternative, table_);
  std::map<uint32_t, uint32_t> known;
  for (char32_t c = 0x80; c < kCodePoints; ++c) {
    const uint32_t bits = table_[c];
    const auto [entry, fresh] = known.try_emplace(bits, 0);
    if (fresh) entry->second = any(bits);
    starts_[lead_byte(c)] |= entry->second;
  }
}

std::shared_ptr<const RunPattern> RunPattern::compile(const std::string& pattern) {
  std::optional<ParsedRunPattern> parsed = parse_run_pattern(pattern);
  if (!parsed || parsed->alternatives.size() > kMaxAlternatives) return nullptr;
  for (const Alternative& alternative : parsed->alternatives) {
    bool empty = false;
    if (may_begin(alternative, 0, empty) && empty) return nullptr;
  }
  std::shared_ptr<RunPattern> made(new RunPattern(std::move(parsed->alternatives), parsed->classes));
  made->pattern_ = pattern;
  return made;
}

bool RunPattern::may_match(std::string_view text) const {
  if (before_line_end_ == 0 || text.find('\n') != std::string_view::npos) return true;
  const char* last = utf8::previous(text.data() + text.size());
  return (table_[utf8::next(last)] & before_line_end_) != 0;
}

Span RunPattern::find(std::string_view text, size_t from) const {
  const char* begin = text.data();
  const char* end = begin + text.size();
  Matcher matcher{table_, end, 64 * static_cast<uint64_t>(text.size()) + 1'000'000};
  const char* dead_until[kMaxAlternatives];  // a run that failed from its start fails from inside, too
  uint32_t ever_dead = 0;                    // alternatives whose dead_until is set
  for (const char* p = begin + from; p < end; ++p) {
    uint32_t mask = starts_[static_cast<unsigned char>(*p)];  // 0 inside a character
    for (; mask != 0; mask &= mask - 1) {
      const auto i = static_cast<size_t>(__builtin_ctz(mask));
      const uint32_t bit = uint32_t{1} << i;
      if ((ever_dead & bit) != 0 && p < dead_until[i]) continue;
      const Alternative& alternative = alternatives_[i];
      const char* found = simple_[i].body != 0
                              ? matcher.match(simple_[i], p)
                              : matcher.match(alternative.data(), alternative.data() + alternative.size(), p);
      if (found != nullptr) return Span{static_cast<size_t>(p - begin), static_cast<size_t>(found - begin)};
      if (matcher.exhausted) {
        throw Error("Splitting a text of " + std::to_string(text.size()) + " bytes with '" + pattern_ +
                    "' takes too many steps.");
      }
      const Element& head = alternative.front();
      if (head.kind == Kind::run && head.max == UINT32_MAX && head.min <= 1) {
        uint32_t count = 0;
        dead_until[i] = matcher.run_end(head, p, count);
        ever_dead |= bit;
      }
    }
  }
  return {text.size(), text.size()};
}

}  // namespace penstock
