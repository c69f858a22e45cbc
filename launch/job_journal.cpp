#include "launch/job_journal.h"

#include <algorithm>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/model/safetensors.h"
#include "runtime/requests/journal/file_facts.h"
#include "runtime/requests/row_intake.h"

namespace penstock {
namespace fs = std::filesystem;
namespace {

// Of the data of each weight file, so many pieces are looked at, from the first to the last: weights that
// were trained further have the same header, and differ nearly everywhere.
constexpr uint64_t kPieces = 64;
constexpr uint64_t kPieceBytes = 4096;

std::vector<fs::path> files_of(const fs::path& folder, const std::vector<std::string>& extensions) {
  std::vector<fs::path> files;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, none))
    if (std::count(extensions.begin(), extensions.end(), entry.path().extension().string()) > 0)
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

/// Of small files: the whole content.
std::string digest_of_texts(const fs::path& folder) {
  Digest digest;
  for (const fs::path& file : files_of(folder, {".json", ".jinja", ".model"}))
    digest.add(file.filename().string() + '\0' + facts_of_file(file).digest);
  return digest.text();
}

/// Of checkpoints: every tensor's name, kind and place, and pieces of the data.
std::string digest_of_weights(const fs::path& folder) {
  Digest digest;
  std::string piece;
  for (const fs::path& path : files_of(folder, {".safetensors"})) {
    const SafetensorsFile file(path);
    std::vector<std::string> names;
    uint64_t end = 0;
    for (const auto& [name, entry] : file.entries()) {
      std::string text = name + '\0' + entry.dtype + '\0' + std::to_string(entry.offset) + '\0';
      for (const int64_t extent : entry.shape) text += std::to_string(extent) + ",";
      names.push_back(std::move(text));
      end = std::max(end, entry.offset + entry.bytes);
    }
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) digest.add(name);
    piece.resize(std::min(end, kPieceBytes));
    for (uint64_t i = 0; i < kPieces; ++i) {
      file.read((end - piece.size()) * i / (kPieces - 1), piece.data(), piece.size());
      digest.add(piece);
    }
  }
  return digest.text();
}

bool may_be_replaced(const fs::path& output, const fs::path& input) {
  std::error_code none;
  if (fs::equivalent(output, input, none) && fs::is_regular_file(input))
    throw UsageError(
        "--output-file " + output.string() +
        ": expected another file than --input-file, found the same: the answers would replace the "
        "requests");
  const fs::file_status status = fs::status(output, none);
  if (fs::is_directory(status))
    throw UsageError("--output-file " + output.string() + ": expected a file, found a folder");
  return !fs::exists(status) || fs::is_regular_file(status);
}

}  // namespace

JobSettings early_settings(const JobOptions& options) {
  const FileFacts input = facts_of_file(options.input);
  const fs::path texts = options.tokenizer.empty() ? options.model : options.tokenizer;
  const bool is_folder = fs::is_directory(texts);
  JobSettings settings{
      {"the input", std::to_string(input.bytes) + " bytes, " + input.digest},
      {"--shard", options.shard},
      {"--input-dataset", options.input_dataset},
      {"--input-body", options.input_body},
      {"the model's configuration", digest_of_texts(options.model)},
      {"the weights", options.load_format == "dummy" ? "dummy" : digest_of_weights(options.model)},
      {"the tokenizer", options.skip_tokenizer_init ? "none"
                        : is_folder                 ? digest_of_texts(texts)
                                                    : facts_of_file(texts).digest},
      {"--chat-template",
       options.chat_template.empty() ? "the model folder's" : facts_of_file(options.chat_template).digest},
      {"--generation-config", fs::is_directory(options.generation_config)
                                  ? digest_of_texts(options.generation_config)
                                  : options.generation_config},
      {"--reasoning-parser", options.reasoning_parser},
      {kModelNameSetting, options.served_model_name.empty()
                              ? kAnyModelPrefix + options.model.lexically_normal().filename().string()
                              : options.served_model_name},
      {"--seed", std::to_string(options.seed)},
      {"--kv-cache-dtype", options.kv_cache_dtype},
  };
  return settings;
}

JobJournal open_journal(const JobOptions& options) {
  JobJournal job;
  if (!may_be_replaced(options.output, options.input) || !fs::is_regular_file(options.input)) return job;
  job.rows =
      count_rows({options.input, parse_shard(options.shard), options.input_dataset, options.input_body});
  job.settings = early_settings(options);
  JournalOptions journal;
  journal.output = options.output;
  journal.resume = options.resume;
  job.journal = std::make_unique<Journal>(std::move(journal));
  job.journal->check(job.settings, job.rows);
  job.output_stands = job.journal->output_stands(job.settings, job.rows);
  return job;
}

void begin_journal(JobJournal& job, int64_t max_model_len, const std::string& numerics,
                   CommitListener committed) {
  if (!job.journal) return;
  job.settings.emplace_back("--max-model-len", std::to_string(max_model_len));
  job.settings.emplace_back("how numbers are computed", numerics);
  job.journal->begin(job.settings, job.rows, std::move(committed));
}

}  // namespace penstock
