#include "runtime/requests/hdf5/results_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/requests/hdf5/columns.h"
#include "runtime/requests/journal/durable_file.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

constexpr float kNoLogprob = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kNoToken = -1;

ShortText short_text(const std::string& text) {
  ShortText cut{};
  std::copy_n(text.begin(), std::min(text.size(), cut.size()), cut.begin());
  return cut;
}

Hdf5Id create_file(const fs::path& path) {
  const Hdf5Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, path.string());
  check_hdf5(H5Pset_obj_track_times(creation.get(), false), path.string());
  const Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, path.string());
  H5Pset_file_locking(access.get(), false, true);
  return {H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose,
          "--output-file " + path.string() + ": cannot be written"};
}

Hdf5Id create_group(const Hdf5Id& file, const char* name) {
  const Hdf5Id creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, name);
  check_hdf5(H5Pset_obj_track_times(creation.get(), false), name);
  return {H5Gcreate2(file.get(), name, H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Gclose, name};
}

void set_attribute(const Hdf5Id& object, const std::string& name, const std::string& value) {
  const Hdf5Id type(H5Tcopy(H5T_C_S1), H5Tclose, name);
  check_hdf5(H5Tset_size(type.get(), std::max<size_t>(1, value.size())), name);
  check_hdf5(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), name);
  check_hdf5(H5Tset_cset(type.get(), H5T_CSET_UTF8), name);
  const Hdf5Id space(H5Screate(H5S_SCALAR), H5Sclose, name);
  const Hdf5Id attribute(
      H5Acreate2(object.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
      name);
  check_hdf5(H5Awrite(attribute.get(), type.get(), value.empty() ? "\0" : value.data()), name);
}

fs::path partial_of(const fs::path& target) {
  fs::path partial = target;
  partial += ".partial";
  return partial;
}

/// The groups and data sets of a file.
class ResultColumns {
 public:
  explicit ResultColumns(const Hdf5Id& file) : file_(file) {
    choice_offsets_.append(0);
    token_offsets_.append(0);
    prompt_offsets_.append(0);
  }
  void add(const ResultRow& row);
  void flush();

 private:
  void add(const ResultChoice& choice);
  void add_alternatives(const ResultChoice& choice, uint64_t first_token);

  const Hdf5Id& file_;
  Hdf5Id rows_ = create_group(file_, "rows");
  Hdf5Id choices_ = create_group(file_, "choices");
  Hdf5Id tokens_ = create_group(file_, "tokens");
  Hdf5Id prompts_ = create_group(file_, "prompts");

  TextColumn custom_ids_{rows_, "custom_id"};
  TextColumn errors_{rows_, "error"};
  TextColumn fingerprints_{rows_, "system_fingerprint"};
  Column<int64_t> prompt_tokens_{rows_, "prompt_tokens", 0};
  Column<int64_t> choice_offsets_{rows_, "choice_offsets", 0};

  TextColumn texts_{choices_, "text"};
  Column<ShortText> finish_reasons_{choices_, "finish_reason", ShortText{}};
  TextColumn stop_reasons_{choices_, "stop_reason"};
  Column<int64_t> token_offsets_{choices_, "token_offsets", 0};

  Column<int32_t> ids_{tokens_, "id", kNoToken};
  Column<float> logprobs_{tokens_, "logprob", kNoLogprob};
  Column<int32_t> top_ids_{tokens_, "top_id", kNoToken, true};
  Column<float> top_logprobs_{tokens_, "top_logprob", kNoLogprob, true};

  // As an input's group of token ids, so that another job can read it: one entry a choice.
  Column<int32_t> prompt_ids_{prompts_, "ids", kNoToken};
  Column<int64_t> prompt_offsets_{prompts_, "offsets", 0};

  bool any_top_ = false;
};

void ResultColumns::add(const ResultRow& row) {
  custom_ids_.append(row.custom_id);
  errors_.append(row.error);
  fingerprints_.append(row.system_fingerprint);
  prompt_tokens_.append(row.prompt_tokens);
  for (const ResultChoice& choice : row.choices) add(choice);
  choice_offsets_.append(static_cast<int64_t>(texts_.length()));
}

void ResultColumns::add(const ResultChoice& choice) {
  ensure(choice.logprobs.size() == choice.tokens.size(), "a log-probability a token");
  const uint64_t first = ids_.length();
  texts_.append(choice.text);
  finish_reasons_.append(short_text(choice.finish_reason));
  stop_reasons_.append(choice.stop_reason);
  for (size_t i = 0; i < choice.tokens.size(); ++i) {
    ids_.append(choice.tokens[i]);
    logprobs_.append(choice.logprobs[i]);
  }
  token_offsets_.append(static_cast<int64_t>(ids_.length()));
  for (const int32_t id : choice.prompt_tokens) prompt_ids_.append(id);
  prompt_offsets_.append(static_cast<int64_t>(prompt_ids_.length()));

  add_alternatives(choice, first);
}

void ResultColumns::add_alternatives(const ResultChoice& choice, uint64_t first_token) {
  if (choice.top.empty()) return;
  any_top_ = true;
  top_ids_.fill_to(first_token);
  top_logprobs_.fill_to(first_token);
  for (const auto& alternatives : choice.top) {
    std::vector<int32_t> ids;
    std::vector<float> logprobs;
    for (const auto& [id, logprob] : alternatives) {
      ids.push_back(id);
      logprobs.push_back(logprob);
    }
    top_ids_.append_row(ids);
    top_logprobs_.append_row(logprobs);
  }
}

void ResultColumns::flush() {
  if (any_top_) {
    top_ids_.fill_to(ids_.length());
    top_logprobs_.fill_to(ids_.length());
  }
  for (TextColumn* column : {&custom_ids_, &errors_, &fingerprints_, &texts_, &stop_reasons_})
    column->flush();
  for (Column<int64_t>* column : {&prompt_tokens_, &choice_offsets_, &token_offsets_, &prompt_offsets_})
    column->flush();
  for (Column<int32_t>* column : {&ids_, &top_ids_, &prompt_ids_}) column->flush();
  for (Column<float>* column : {&logprobs_, &top_logprobs_}) column->flush();
  finish_reasons_.flush();
}

/// Makes the file's content durable. Throws Error.
void sync(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool durable = fd >= 0 && fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (!durable)
    throw Error("--output-file " + path.string() + ": cannot be completed: " + std::strerror(error));
}

}  // namespace

class Hdf5Results::Impl {
 public:
  Impl(const fs::path& target, const RunSettings& settings)
      : target_(behind_link(target)),
        partial_(partial_of(target_)),
        file_(create_file(partial_)),
        columns_(std::make_unique<ResultColumns>(file_)) {
    set_attribute(file_, "penstock_results", "1");
    // The order of attributes shows in the bytes, and a reader gives them by name.
    RunSettings sorted = settings;
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [name, value] : sorted) set_attribute(file_, name, value);
  }
  ~Impl() {
    if (!file_) return;
    std::error_code ignored;
    fs::remove(partial_, ignored);
  }
  void add(const ResultRow& row) { columns_->add(row); }
  void finish();

 private:
  const fs::path target_;
  const fs::path partial_;
  Hdf5Id file_;
  std::unique_ptr<ResultColumns> columns_;
};

void Hdf5Results::Impl::finish() {
  columns_->flush();
  // Closing does not tell whether it could write; flushing does.
  const std::string what = "--output-file " + partial_.string() + ": writing failed";
  check_hdf5(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), what);
  columns_.reset();
  file_.close(what);
  sync(partial_);
  std::error_code error;
  fs::rename(partial_, target_, error);
  if (error)
    throw Error("--output-file " + target_.string() + ": cannot be completed: " + error.message() +
                "; the results are in " + partial_.string());
  sync(target_.has_parent_path() ? target_.parent_path() : fs::path("."));
}

Hdf5Results::Hdf5Results(const fs::path& target, const RunSettings& settings) {
  const QuietHdf5 quiet;
  impl_ = std::make_unique<Impl>(target, settings);
}

Hdf5Results::~Hdf5Results() {
  const QuietHdf5 quiet;
  impl_.reset();
}

void Hdf5Results::add(const ResultRow& row) {
  const QuietHdf5 quiet;
  impl_->add(row);
}

void Hdf5Results::finish() {
  const QuietHdf5 quiet;
  impl_->finish();
}

}  // namespace penstock
