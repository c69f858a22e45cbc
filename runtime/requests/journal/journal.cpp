#include "runtime/requests/journal/journal.h"

#include <google/protobuf/text_format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/requests/hdf5/answer_line.h"
#include "runtime/requests/hdf5/journaled_row.h"
#include "runtime/requests/hdf5/results_reader.h"
#include "runtime/requests/hdf5/results_writer.h"
#include "runtime/requests/input_spec.h"
#include "runtime/requests/journal/file_facts.h"
#include "runtime/requests/output_file.h"

namespace penstock {
namespace fs = std::filesystem;
namespace {

constexpr uint32_t kFormat = 1;

fs::path manifest_of(const fs::path& folder) {
  return folder / "manifest";
}

/// The manifest's last line. Without it a manifest that lost its end would be one of a job with fewer rows.
std::string seal_of(std::string_view text) {
  char line[32];
  std::snprintf(line, sizeof line, "# CRC32C %08x\n", crc32c(text));
  return line;
}

bool parse_manifest(std::string_view text, proto::JournalManifest& manifest) {
  const size_t seal = text.rfind('#');
  return seal != std::string_view::npos && text.substr(seal) == seal_of(text.substr(0, seal)) &&
         google::protobuf::TextFormat::ParseFromString(std::string(text), &manifest) &&
         manifest.format() == kFormat;
}

/// False when there is none. Throws UsageError when there is one that cannot be read.
bool read_manifest(const fs::path& folder, proto::JournalManifest& manifest) {
  const fs::path path = manifest_of(folder);
  if (!fs::exists(path)) return false;
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!parse_manifest(text, manifest))
    throw UsageError(path.string() + ": expected the manifest of a journal of format " +
                     std::to_string(kFormat) +
                     ", found something else, or a part of one; put it back, keep the rows all the same with "
                     "--resume=force, or start over with --resume=never");
  return true;
}

const std::string* value_of(const proto::JournalManifest& manifest, const std::string& name) {
  for (const proto::JobSetting& setting : manifest.settings())
    if (setting.name() == name) return &setting.value();
  return nullptr;
}

FileFacts write_lines(JournalIndex& index, const fs::path& path) {
  OutputFile output(path);
  FileFacts facts;
  Digest digest;
  index.for_each_finished([&](const proto::FinishedRow& row) {
    output.write_line(row.line());
    digest.add(row.line());
    digest.add("\n");
    facts.bytes += row.line().size() + 1;
  });
  output.finish();
  facts.digest = digest.text();
  return facts;
}

FileFacts write_hdf5(JournalIndex& index, const proto::JournalManifest& manifest, const fs::path& path) {
  RunSettings settings;
  for (const proto::JobSetting& setting : manifest.settings())
    settings.emplace_back(setting.name(), setting.value());
  Hdf5Results output(path, settings);
  index.for_each_finished([&](const proto::FinishedRow& row) { output.add(result_row_of(row)); });
  output.finish();
  return facts_of_file(path);
}

std::string model_name_of(const proto::JournalManifest& manifest) {
  const std::string* setting = value_of(manifest, kModelNameSetting);
  if (setting == nullptr) return {};
  const std::string any = kAnyModelPrefix;
  return setting->compare(0, any.size(), any) == 0 ? setting->substr(any.size()) : *setting;
}

using LineVisitor = std::function<void(std::string_view)>;

/// Of a completed job: the rows from `first` on.
void read_output(const fs::path& output, const proto::JournalManifest& manifest, uint64_t first,
                 const LineVisitor& visit, JournalCounts& counts) {
  if (!fs::is_regular_file(output))
    throw UsageError(output.string() + ": the job is completed, and its output cannot be opened");
  counts.cut = 0;
  uint64_t row = 0;
  const auto give = [&](std::string_view line) {
    if (row++ < first) return;
    ++counts.finished;
    visit(line);
  };
  counts.from_hdf5 = is_hdf5(output);
  if (counts.from_hdf5) {
    Hdf5ResultsReader reader(output);
    for (ResultRow answer; reader.next(answer);)
      give(answer_line(std::move(answer), model_name_of(manifest)));
  } else {
    std::ifstream file(output, std::ios::binary);
    for (std::string line; std::getline(file, line);) give(line);
  }
}

/// Of a job that is not completed: the finished rows; `next` becomes the row after the last one given.
void read_index(const fs::path& folder, uint64_t& next, const LineVisitor& visit, JournalCounts& counts) {
  JournalIndex index(folder, counts.rows);
  counts.failed = index.failed_rows();
  counts.cut = index.cut_rows();
  index.for_each_finished([&](const proto::FinishedRow& row) {
    visit(row.line());
    ++counts.finished;
    next = row.number() + 1;
  });
}

}  // namespace

fs::path journal_of(const fs::path& output) {
  return output.string() + ".journal";
}

Journal::Journal(JournalOptions options)
    : options_(std::move(options)), folder_(journal_of(options_.output)) {
  std::error_code trouble;
  fs::create_directory(folder_, trouble);
  if (!fs::is_directory(folder_))
    throw UsageError("--output-file " + options_.output.string() + ": its journal " + folder_.string() +
                     " cannot be written: " + trouble.message() +
                     "; name a file in a folder that exists and may be written");
  lock_ = std::make_unique<JournalLock>(folder_ / "lock", this_machine(), options_.lock);
  sync_folder(folder_of(folder_));
  if (options_.resume == Resume::never) {
    remove_segments();
    return;
  }
  take_manifest();
  read_segments(manifest_.rows());
}

Journal::~Journal() = default;

void Journal::take_manifest() {
  try {
    has_manifest_ = read_manifest(folder_, manifest_);
    if (!has_manifest_ && !segments_of(folder_).empty())
      throw UsageError(
          folder_.string() +
          ": expected a manifest beside the segments, found none; put it back, keep the rows all "
          "the same with --resume=force, or start over with --resume=never");
  } catch (const UsageError& trouble) {
    if (options_.resume != Resume::force) throw;
    log::warning(trouble.what());
    manifest_.Clear();
  }
}

void Journal::read_segments(uint64_t rows) {
  index_ = JournalIndex(folder_, rows);
  for (const TornSegment& torn : index_.torn())
    log::info(torn.path.string() + ": its last " + std::to_string(torn.file_bytes - torn.whole_bytes) +
              " bytes are torn and cut off; what they held is computed again");
  cut_torn_ends(index_.torn());
}

std::string Journal::differences(const JobSettings& settings, uint64_t rows) const {
  std::string text;
  const auto tell = [&text](const std::string& name, const std::string& was, const std::string& is) {
    text += (text.empty() ? "" : "; ") + name + " was " + was + " and is " + is;
  };
  for (const auto& [name, value] : settings) {
    const std::string* was = value_of(manifest_, name);
    if (was == nullptr)
      tell(name, "not recorded", value);
    else if (*was != value)
      tell(name, *was, value);
  }
  if (manifest_.rows() != rows)
    tell("the number of rows", std::to_string(manifest_.rows()), std::to_string(rows));
  return text;
}

void Journal::check(const JobSettings& settings, uint64_t rows) {
  if (options_.resume != Resume::automatic || !has_manifest_) return;
  const std::string differ = differences(settings, rows);
  if (differ.empty()) return;
  if (manifest_.has_completed() || !holds_rows()) return;  // nothing that could be lost: begin() starts over
  throw UsageError(
      folder_.string() + " holds " + std::to_string(index_.finished_rows()) +
      " finished rows of another job: " + differ +
      ". Go on with the earlier values; or start over with --resume=never; or keep those rows and "
      "go on all the same with --resume=force");
}

bool Journal::output_stands(const JobSettings& settings, uint64_t rows) {
  if (!has_manifest_ || !manifest_.has_completed() || !fs::is_regular_file(options_.output)) return false;
  if (!differences(settings, rows).empty()) return false;
  if (fs::file_size(options_.output) != manifest_.completed().bytes()) return false;
  if (facts_of_file(options_.output).digest != manifest_.completed().digest()) return false;
  remove_segments();  // a kill may have left some
  return true;
}

void Journal::remove_segments() {
  for (const uint32_t number : segments_of(folder_)) fs::remove(segment_path(folder_, number));
  index_ = {};
}

void Journal::begin(const JobSettings& settings, uint64_t rows, CommitListener committed) {
  check(settings, rows);
  const bool same = has_manifest_ && differences(settings, rows).empty();
  if (has_manifest_ && !same && options_.resume == Resume::automatic) remove_segments();
  if (manifest_.rows() != rows)
    read_segments(rows);  // forced: rows that this job does not have count no more
  if (!same || manifest_.has_completed()) {
    manifest_.Clear();
    manifest_.set_format(kFormat);
    for (const auto& [name, value] : settings) {
      proto::JobSetting* setting = manifest_.add_settings();
      setting->set_name(name);
      setting->set_value(value);
    }
    manifest_.set_rows(rows);
    write_manifest();
  }
  writer_ = std::make_unique<JournalWriter>(folder_, index_.last_segment() + 1, options_.commit,
                                            std::move(committed));
}

void Journal::write_manifest() {
  std::string text;
  google::protobuf::TextFormat::PrintToString(manifest_, &text);
  replace_file(manifest_of(folder_), text + seal_of(text));
  has_manifest_ = true;
}

void Journal::complete() {
  writer_->sync();
  writer_.reset();
  index_ = JournalIndex(folder_, manifest_.rows());
  if (index_.finished_rows() != manifest_.rows())
    throw Error(folder_.string() + ": expected " + std::to_string(manifest_.rows()) +
                " finished rows, found " + std::to_string(index_.finished_rows()) +
                "; did the input change while the job ran? Start over with --resume=never");
  const FileFacts facts = is_hdf5(options_.output) ? write_hdf5(index_, manifest_, options_.output)
                                                   : write_lines(index_, options_.output);
  manifest_.mutable_completed()->set_bytes(facts.bytes);
  manifest_.mutable_completed()->set_digest(facts.digest);
  write_manifest();
  remove_segments();
}

JournalCounts read_results(const fs::path& journal, const LineVisitor& visit) {
  const bool is_folder = fs::is_directory(journal);
  const fs::path folder = is_folder ? journal : journal_of(journal);
  JournalCounts counts;
  uint64_t next = 0;  // rows before it are given, or were not finished
  for (;;) {
    proto::JournalManifest manifest;
    if (!read_manifest(folder, manifest))
      throw UsageError(
          journal.string() +
          ": expected the journal that a job keeps beside its output, or that output, found none");
    counts.rows = manifest.rows();
    if (manifest.has_completed()) {
      read_output(folder.parent_path() / folder.stem(), manifest, next, visit, counts);
      return counts;
    }
    try {
      read_index(folder, next, visit, counts);
      return counts;
    } catch (const Error&) {
      // Where the job has completed meanwhile its rows are in the output now.
      if (!read_manifest(folder, manifest) || !manifest.has_completed()) throw;
    }
  }
}

}  // namespace penstock
