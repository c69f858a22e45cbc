#include "runtime/requests/merge_results.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>

#include "runtime/base/error.h"
#include "runtime/requests/answer.h"
#include "runtime/requests/hdf5/results_reader.h"
#include "runtime/requests/hdf5/results_writer.h"
#include "runtime/requests/id_set.h"
#include "runtime/requests/line_reader.h"
#include "runtime/requests/output_file.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestAnswer = size_t{1} << 30;

std::optional<Shard> shard_in_name(const fs::path& path) {
  const std::regex pattern(R"(\.shard-([0-9]{1,9})-of-([0-9]{1,9})(\.|$))");
  const std::string name = path.filename().string();
  std::smatch found;
  if (!std::regex_search(name, found, pattern)) return std::nullopt;
  return parse_shard(found[1].str() + "/" + found[2].str());
}

/// By the parts' names; as given when none is named as a part.
std::vector<fs::path> in_order(const std::vector<fs::path>& parts) {
  std::map<uint64_t, fs::path> by_index;
  std::optional<uint64_t> count;
  for (const fs::path& part : parts) {
    const std::optional<Shard> shard = shard_in_name(part);
    if (!shard) continue;
    if (count && *count != shard->count)
      throw UsageError("results --merge: expected parts of " + std::to_string(*count) + ", found " +
                       part.string());
    count = shard->count;
    if (!by_index.emplace(shard->index, part).second)
      throw UsageError("results --merge: part " + shard->text() +
                       " is given twice: " + by_index[shard->index].string() + " and " + part.string());
  }
  if (!count) return parts;
  if (by_index.size() != parts.size())
    throw UsageError("results --merge: expected every file to be named as a part (.shard-I-of-N) or none");
  std::vector<fs::path> ordered;
  std::string missing;
  for (uint64_t i = 0; i < *count; ++i) {
    if (by_index.count(i) > 0)
      ordered.push_back(by_index[i]);
    else
      missing += (missing.empty() ? "" : ", ") + std::to_string(i);
  }
  if (!missing.empty())
    throw UsageError("results --merge: expected all " + std::to_string(*count) +
                     " parts, found none of part " + missing + "; is its job finished?");
  return ordered;
}

/// Reads an answer's line as far as its custom_id and whether a response follows, which is near the front.
class AnswerHead : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit AnswerHead(const std::string& line) { nlohmann::json::sax_parse(line, this); }
  /// The custom_id of a row that has an answer; nothing for an error.
  const std::optional<std::string>& answered() const { return answered_; }

  bool null() override { return !at("response"); }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t& text) override {
    if (at("custom_id")) custom_id_ = text;
    return true;
  }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    if (!at("response")) return ++depth_ > 0;
    answered_ = custom_id_;
    return false;
  }
  bool key(string_t& name) override {
    key_ = name;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) override {
    return false;
  }

 private:
  bool at(const char* name) const { return depth_ == 1 && key_ == name; }

  int depth_ = 0;
  std::string key_;
  std::string custom_id_;
  std::optional<std::string> answered_;
};

RowError repeated(const std::string& custom_id) {
  return {custom_id,
          "custom_id: '" + custom_id +
              "' was used in an earlier part of the input; every row needs one of its own",
          "custom_id"};
}

/// A file that lost its end in a copy has lost rows. Throws Error.
void expect_whole_lines(const fs::path& part) {
  std::ifstream file(part, std::ios::binary | std::ios::ate);
  if (!file || file.tellg() == 0) return;  // unreadable ones are told where they are read
  file.seekg(-1, std::ios::end);
  if (file.get() != '\n')
    throw Error(part.string() +
                ": expected a newline at its end, found none: its last line is cut off; take the whole file");
}

MergeReport merge_lines(const std::vector<fs::path>& parts, const fs::path& target) {
  MergeReport report;
  IdSet ids;
  OutputFile output(target);
  for (const fs::path& part : parts) {
    expect_whole_lines(part);
    LineReader reader(part, kLongestAnswer);
    std::string line;
    for (LineSource::Status status; (status = reader.next(line)) != LineSource::Status::end; ++report.rows) {
      if (status == LineSource::Status::too_long)
        throw Error(part.string() + ": line " + std::to_string(reader.line_number()) +
                    " is longer than any answer");
      const auto id = AnswerHead(line).answered();
      const bool again = id && !ids.insert(*id);
      if (again) ++report.repeated_ids;
      output.write_line(again ? format_error(repeated(*id)) : line);
    }
  }
  output.finish();
  return report;
}

/// What the parts' runs had in common; --shard, which differs by its nature, becomes that of the whole.
RunSettings common_settings(const std::vector<fs::path>& parts) {
  RunSettings first;
  for (const fs::path& part : parts) {
    RunSettings settings = Hdf5ResultsReader(part).settings();
    for (auto& [name, value] : settings)
      if (name == "--shard") value = Shard{}.text();
    if (&part == &parts.front()) first = settings;
    for (size_t i = 0; i < std::max(first.size(), settings.size()); ++i)
      if (i >= first.size() || i >= settings.size() || settings[i] != first[i])
        throw UsageError("results --merge: " + part.string() + " and " + parts.front().string() +
                         " differ in " + (i < settings.size() ? settings[i].first : first[i].first) +
                         ": they are not parts of one job");
  }
  return first;
}

MergeReport merge_hdf5(const std::vector<fs::path>& parts, const fs::path& target) {
  MergeReport report;
  IdSet ids;
  Hdf5Results output(target, common_settings(parts));
  for (const fs::path& part : parts) {
    Hdf5ResultsReader reader(part);
    for (ResultRow row; reader.next(row); ++report.rows) {
      if (row.error.empty() && !ids.insert(row.custom_id)) {
        ++report.repeated_ids;
        row = {row.custom_id, repeated(row.custom_id).message, 0, {}};
      }
      output.add(row);
    }
  }
  output.finish();
  return report;
}

}  // namespace

MergeReport merge_results(const std::vector<fs::path>& parts, const fs::path& target) {
  const bool hdf5 = is_hdf5(target);
  for (const fs::path& part : parts)
    if (is_hdf5(part) != hdf5)
      throw UsageError("results --merge: expected all files HDF5 or all JSON lines, found " + part.string() +
                       " for " + target.string());
  const std::vector<fs::path> ordered = in_order(parts);
  return hdf5 ? merge_hdf5(ordered, target) : merge_lines(ordered, target);
}

}  // namespace penstock
