#include "runtime/requests/text/post_processor.h"

#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/requests/text/json_fields.h"

namespace penstock {
namespace {

using nlohmann::json;

constexpr size_t kMaxItems = 64;
// A file may repeat the sequence, many times over; it may not grow beyond this.
constexpr size_t kMostGrowth = 8;
constexpr size_t kRoomForGrowth = 100'000;

/// The ids of {"SpecialToken": {"id": name}}, looked up in the template's own table.
std::vector<int32_t> special_ids(const json& processor, const std::string& name, size_t id_bound) {
  const json table = processor.value("special_tokens", json::object());
  if (!table.is_object() || !table.contains(name)) {
    throw UsageError("tokenizer.json: post_processor uses the special token '" + name +
                     "', which its special_tokens do not list.");
  }
  std::vector<int32_t> out;
  for (const json& id : json_fields::required_array(table[name], "ids")) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= id_bound) {
      throw UsageError("tokenizer.json: post_processor.special_tokens['" + name + "'] has the id " +
                       id.dump().substr(0, 40) + ", expected one below " + std::to_string(id_bound) + ".");
    }
    out.push_back(id.get<int32_t>());
  }
  return out;
}

}  // namespace

PostProcessor PostProcessor::parse(const json& object, size_t id_bound) {
  PostProcessor made;
  if (!object.is_null()) add(object, id_bound, 0, made.templates_);
  return made;
}

void PostProcessor::add(const json& object, size_t id_bound, int depth, std::vector<Template>& out) {
  const std::string type = json_fields::type_of(object, "post_processor");
  if (depth > 8 || out.size() > kMaxItems)
    throw UsageError("tokenizer.json: post_processor has too many steps.");
  if (type == "ByteLevel") return;  // moves offsets only
  if (type == "Sequence") {
    for (const json& inner : json_fields::required_array(object, "processors"))
      add(inner, id_bound, depth + 1, out);
    return;
  }
  if (type != "TemplateProcessing") {
    throw UsageError("tokenizer.json: the post_processor '" + type +
                     "' is not supported; expected TemplateProcessing, ByteLevel or Sequence.");
  }
  Template made(1);
  const json& single = json_fields::required_array(object, "single");
  if (single.size() > kMaxItems)
    throw UsageError("tokenizer.json: post_processor.single has too many items.");
  for (const json& item : single) {
    if (item.is_object() && item.contains("Sequence")) {
      made.emplace_back();
    } else if (item.is_object() && item.contains("SpecialToken")) {
      const std::vector<int32_t> ids =
          special_ids(object, json_fields::required_text(item["SpecialToken"], "id"), id_bound);
      made.back().insert(made.back().end(), ids.begin(), ids.end());
    } else {
      throw UsageError(
          "tokenizer.json: an item of post_processor.single must be a Sequence or a SpecialToken.");
    }
  }
  out.push_back(std::move(made));
}

void PostProcessor::run(std::vector<int32_t>& ids) const {
  const size_t bound = kMostGrowth * ids.size() + kRoomForGrowth;
  for (const Template& one : templates_) {
    std::vector<int32_t> out;
    if (one.size() * ids.size() > bound)
      throw Error("The post_processor of tokenizer.json repeats the text too often.");
    for (size_t i = 0; i < one.size(); ++i) {
      if (i > 0) out.insert(out.end(), ids.begin(), ids.end());
      out.insert(out.end(), one[i].begin(), one[i].end());
    }
    ids = std::move(out);
  }
}

}  // namespace penstock
