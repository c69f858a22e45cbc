#include "runtime/requests/hdf5/results_reader.h"

#include <algorithm>
#include <optional>

#include "runtime/requests/hdf5/block_reader.h"

namespace penstock {
namespace {

constexpr uint64_t kBlock = 8192;
constexpr size_t kTextBytes = size_t{64} << 20;
constexpr uint64_t kMostTokens = uint64_t{1} << 28;  // of one choice

hid_t memory_type(int32_t) {
  return H5T_NATIVE_INT32;
}
hid_t memory_type(int64_t) {
  return H5T_NATIVE_INT64;
}
hid_t memory_type(float) {
  return H5T_NATIVE_FLOAT;
}

/// Entries of a data set, front to back; an entry of a table is one of its rows.
template <class T>
class Sequence {
 public:
  Sequence(const Hdf5Id& file, const std::string& name)
      : name_(name), dataset_(H5Dopen2(file.get(), name.c_str(), H5P_DEFAULT), H5Dclose, name) {
    const Hdf5Id space(H5Dget_space(dataset_.get()), H5Sclose, name_);
    const int dimensions = H5Sget_simple_extent_ndims(space.get());
    if (dimensions != 1 && dimensions != 2)
      throw UsageError(name_ + ": expected one or two dimensions, found " + std::to_string(dimensions));
    hsize_t size[2] = {0, 1};
    H5Sget_simple_extent_dims(space.get(), size, nullptr);
    size_ = size[0];
    width_ = std::max<hsize_t>(1, size[1]);
    table_ = dimensions == 2;
    if (width_ > kBlock)
      throw UsageError(name_ + ": expected at most " + std::to_string(kBlock) + " columns");
  }
  uint64_t size() const { return size_; }
  uint64_t width() const { return width_; }

  /// The next `count` entries at the end of `out`.
  void take(uint64_t count, std::vector<T>& out) {
    if (count > size_ - taken_)
      throw Error(name_ + ": expected " + std::to_string(count) + " more entries, found " +
                  std::to_string(size_ - taken_));
    while (count > 0) {
      if (at_ == block_.size()) load();
      const uint64_t here = std::min<uint64_t>(count, (block_.size() - at_) / width_);
      const auto from = block_.begin() + static_cast<ptrdiff_t>(at_);
      out.insert(out.end(), from, from + static_cast<ptrdiff_t>(here * width_));
      at_ += here * width_;
      taken_ += here;
      count -= here;
    }
  }
  T take() {
    std::vector<T> one;
    take(1, one);
    return one.front();
  }

 private:
  void load() {
    const hsize_t begin[] = {taken_, 0};
    const hsize_t block[] = {std::min<uint64_t>(std::max<uint64_t>(1, kBlock / width_), size_ - taken_),
                             width_};
    const Hdf5Id space(H5Dget_space(dataset_.get()), H5Sclose, name_);
    check_hdf5(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, begin, nullptr, block, nullptr), name_);
    const Hdf5Id memory(H5Screate_simple(table_ ? 2 : 1, block, nullptr), H5Sclose, name_);
    block_.resize(block[0] * width_);
    check_hdf5(
        H5Dread(dataset_.get(), memory_type(T{}), memory.get(), space.get(), H5P_DEFAULT, block_.data()),
        name_ + ": reading failed");
    at_ = 0;
  }

  std::string name_;
  Hdf5Id dataset_;
  uint64_t size_ = 0;
  uint64_t width_ = 1;
  bool table_ = false;
  uint64_t taken_ = 0;
  std::vector<T> block_;
  size_t at_ = 0;
};

/// Strings, front to back.
class Texts {
 public:
  Texts(const Hdf5Id& file, const std::string& name)
      : name_(name), reader_(Hdf5Id(H5Dopen2(file.get(), name.c_str(), H5P_DEFAULT), H5Dclose, name), name) {}
  uint64_t size() const { return reader_.size(); }
  std::string take() {
    if (at_ == block_.size()) load();
    return std::move(block_[at_++]);
  }

 private:
  void load() {
    uint64_t count = std::min(kBlock, reader_.size() - next_);
    if (count == 0) throw Error(name_ + ": expected another string, found the end");
    while (!reader_.read(next_, count, kTextBytes, block_)) {
      if (count == 1) throw Error(name_ + ": entry " + std::to_string(next_) + " is longer than any answer");
      count = (count + 7) / 8;
    }
    next_ += count;
    at_ = 0;
  }

  std::string name_;
  StringReader reader_;
  uint64_t next_ = 0;
  std::vector<std::string> block_;
  size_t at_ = 0;
};

/// How many entries each owner has, front to back, from offsets.
class Counts {
 public:
  Counts(const Hdf5Id& file, const std::string& name) : name_(name), offsets_(file, name) {
    if (offsets_.size() == 0) throw UsageError(name + ": expected one offset more than entries, found none");
    last_ = offsets_.take();
  }
  uint64_t owners() const { return offsets_.size() - 1; }
  uint64_t take() {
    const int64_t begin = std::exchange(last_, offsets_.take());
    if (last_ < begin || static_cast<uint64_t>(last_ - begin) > kMostTokens)
      throw Error(name_ + ": expected offsets that grow, found " + std::to_string(last_) + " after " +
                  std::to_string(begin));
    return static_cast<uint64_t>(last_ - begin);
  }

 private:
  std::string name_;
  Sequence<int64_t> offsets_;
  int64_t last_ = 0;
};

Hdf5Id open_results(const std::filesystem::path& path) {
  Hdf5Id file = open_hdf5(path);
  if (H5Aexists(file.get(), "penstock_results") <= 0)
    throw UsageError(path.string() +
                     ": expected answers that penstock wrote (an attribute penstock_results), "
                     "found another HDF5 file");
  return file;
}

}  // namespace

class Hdf5ResultsReader::Impl {
 public:
  explicit Impl(const std::filesystem::path& path) : file_(open_results(path)) {
    if (H5Lexists(file_.get(), "tokens/top_id", H5P_DEFAULT) > 0) {
      top_ids_.emplace(file_, "tokens/top_id");
      top_logprobs_.emplace(file_, "tokens/top_logprob");
    }
    if (H5Lexists(file_.get(), "rows/system_fingerprint", H5P_DEFAULT) > 0)
      fingerprints_.emplace(file_, "rows/system_fingerprint");
  }
  uint64_t rows() const { return custom_ids_.size(); }
  RunSettings settings() const;
  bool next(ResultRow& row);

 private:
  void read(ResultChoice& choice);

  Hdf5Id file_;
  Texts custom_ids_{file_, "rows/custom_id"};
  Texts errors_{file_, "rows/error"};
  std::optional<Texts> fingerprints_;
  Sequence<int64_t> prompt_tokens_{file_, "rows/prompt_tokens"};
  Counts choices_{file_, "rows/choice_offsets"};
  Texts texts_{file_, "choices/text"};
  Texts finish_reasons_{file_, "choices/finish_reason"};
  Texts stop_reasons_{file_, "choices/stop_reason"};
  Counts tokens_{file_, "choices/token_offsets"};
  Sequence<int32_t> ids_{file_, "tokens/id"};
  Sequence<float> logprobs_{file_, "tokens/logprob"};
  std::optional<Sequence<int32_t>> top_ids_;
  std::optional<Sequence<float>> top_logprobs_;
  Counts prompts_{file_, "prompts/offsets"};
  Sequence<int32_t> prompt_ids_{file_, "prompts/ids"};
  uint64_t given_ = 0;
};

RunSettings Hdf5ResultsReader::Impl::settings() const {
  RunSettings settings;
  const auto visit = [](hid_t object, const char* name, const H5A_info_t*, void* list) -> herr_t {
    const Hdf5Id id(H5Aopen(object, name, H5P_DEFAULT), H5Aclose, name);
    const Hdf5Id type(H5Aget_type(id.get()), H5Tclose, name);
    if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) > 0 ||
        std::string(name) == "penstock_results")
      return 0;
    std::string value(H5Tget_size(type.get()), '\0');
    if (H5Aread(id.get(), type.get(), value.data()) < 0) return -1;
    static_cast<RunSettings*>(list)->emplace_back(name, value.substr(0, value.find('\0')));
    return 0;
  };
  check_hdf5(H5Aiterate2(file_.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, visit, &settings), "attributes");
  return settings;
}

bool Hdf5ResultsReader::Impl::next(ResultRow& row) {
  if (given_ == rows()) return false;
  ++given_;
  row = {custom_ids_.take(), errors_.take(), prompt_tokens_.take(), {}};
  if (fingerprints_) row.system_fingerprint = fingerprints_->take();
  const uint64_t choices = choices_.take();
  if (choices > texts_.size())
    throw Error("rows/choice_offsets: expected at most " + std::to_string(texts_.size()) +
                " choices, found " + std::to_string(choices));
  for (uint64_t i = 0; i < choices; ++i) read(row.choices.emplace_back());
  return true;
}

void Hdf5ResultsReader::Impl::read(ResultChoice& choice) {
  choice.text = texts_.take();
  choice.finish_reason = finish_reasons_.take();
  choice.stop_reason = stop_reasons_.take();
  const uint64_t tokens = tokens_.take();
  ids_.take(tokens, choice.tokens);
  logprobs_.take(tokens, choice.logprobs);
  prompt_ids_.take(prompts_.take(), choice.prompt_tokens);
  if (!top_ids_) return;
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  top_ids_->take(tokens, ids);
  top_logprobs_->take(tokens, logprobs);
  if (top_ids_->width() != top_logprobs_->width())
    throw Error("tokens/top_id and top_logprob differ in width");
  if (std::all_of(ids.begin(), ids.end(), [](int32_t id) { return id < 0; })) return;
  for (uint64_t t = 0; t < tokens; ++t) {
    auto& alternatives = choice.top.emplace_back();
    for (uint64_t k = t * top_ids_->width(); k < (t + 1) * top_ids_->width() && ids[k] >= 0; ++k)
      alternatives.emplace_back(ids[k], logprobs[k]);
  }
}

Hdf5ResultsReader::Hdf5ResultsReader(const std::filesystem::path& path) {
  const QuietHdf5 quiet;
  impl_ = std::make_unique<Impl>(path);
}

Hdf5ResultsReader::~Hdf5ResultsReader() = default;

uint64_t Hdf5ResultsReader::rows() const {
  return impl_->rows();
}

RunSettings Hdf5ResultsReader::settings() const {
  return impl_->settings();
}

bool Hdf5ResultsReader::next(ResultRow& row) {
  const QuietHdf5 quiet;
  return impl_->next(row);
}

}  // namespace penstock
