#include "runtime/requests/hdf5/prompts.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "runtime/requests/hdf5/block_reader.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kBlockRows = 1024;
constexpr size_t kBlockBytes = size_t{32} << 20;

/// JSON text of a string. What is no UTF-8 stays as it is: the request's parser makes it that row's error.
void append_quoted(std::string& out, const std::string& text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      constexpr char kDigits[] = "0123456789abcdef";
      out += "\\u00";
      out += kDigits[static_cast<unsigned char>(c) >> 4];
      out += kDigits[static_cast<unsigned char>(c) & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

Json parse_body(const std::string& text, const std::string& whose) {
  if (text.empty()) return Json::object();
  const Json body = Json::parse(text, nullptr, false);
  if (!body.is_object() || body.contains("prompt"))
    throw UsageError(whose + ": expected a JSON object of request fields without a prompt, found " + text);
  return body;
}

/// The object's attribute of that name as text; empty when it has none.
std::string text_attribute(const Hdf5Id& object, const char* attribute, const std::string& name) {
  if (check_hdf5(H5Aexists(object.get(), attribute), name) == 0) return {};
  const std::string what = name + ": attribute " + attribute;
  const Hdf5Id id(H5Aopen(object.get(), attribute, H5P_DEFAULT), H5Aclose, what);
  const Hdf5Id stored(H5Aget_type(id.get()), H5Tclose, what);
  const Hdf5Id space(H5Aget_space(id.get()), H5Sclose, what);
  if (H5Tget_class(stored.get()) != H5T_STRING || H5Sget_simple_extent_npoints(space.get()) != 1)
    throw UsageError(what + ": expected one string, found something else");
  if (H5Tis_variable_str(stored.get()) > 0) {
    const Hdf5Id type(H5Tcopy(stored.get()), H5Tclose, what);
    char* text = nullptr;
    check_hdf5(H5Aread(id.get(), type.get(), &text), what);
    const std::string copy = text == nullptr ? "" : text;
    H5free_memory(text);
    return copy;
  }
  std::string text(H5Tget_size(stored.get()), '\0');
  check_hdf5(H5Aread(id.get(), stored.get(), text.data()), what);
  return text.substr(0, text.find('\0'));
}

}  // namespace

class Hdf5Prompts::Impl {
 public:
  Impl(const InputSpec& input, size_t longest_line);
  Status next(std::string& line);
  uint64_t given() const { return row_ - range_.begin; }

  uint64_t file_bytes = 0;  ///< of the part that is read, if rows were equally long
  uint64_t rows() const { return range_.end - range_.begin; }
  uint64_t row() const { return row_; }

 private:
  Hdf5Id open(const std::string& name) const;
  void open_token_ids(const std::string& name);
  void open_body(const Hdf5Id& object, const std::string& name, const std::string& given);
  void load_block();
  bool try_block(uint64_t count);

  const std::filesystem::path path_;
  const size_t longest_line_;
  Hdf5Id file_;
  std::optional<StringReader> texts_;
  std::optional<IntegerReader> ids_;
  std::optional<IntegerReader> offsets_;
  std::optional<StringReader> custom_ids_;
  std::string tail_;  // of every line, after the prompt
  Range range_;
  uint64_t row_ = 0;

  struct {
    uint64_t begin = 0;
    uint64_t rows = 0;
    bool too_long = false;  // its one row
    std::vector<std::string> texts, custom_ids;
    std::vector<int64_t> ids, offsets;
  } block_;
};

Hdf5Prompts::Impl::Impl(const InputSpec& input, size_t longest_line)
    : path_(input.path), longest_line_(longest_line), file_(open_hdf5(input.path)) {
  const std::string dataset = input.dataset.empty() ? "prompts" : input.dataset;
  const std::string name = path_.string() + ": " + dataset;
  if (H5Oexists_by_name(file_.get(), dataset.c_str(), H5P_DEFAULT) <= 0)
    throw UsageError(name +
                     ": expected a data set of strings or a group with ids and offsets, found nothing; "
                     "name it by --input-dataset");
  const Hdf5Id object = open(dataset);
  std::string beside;  // where custom ids would be
  uint64_t rows = 0;
  if (H5Iget_type(object.get()) == H5I_GROUP) {
    open_token_ids(dataset);
    rows = offsets_->size() - 1;
    beside = dataset + "/custom_id";
  } else {
    texts_.emplace(open(dataset), name);
    rows = texts_->size();
    const size_t slash = dataset.rfind('/');
    beside = (slash == std::string::npos ? "" : dataset.substr(0, slash + 1)) + "custom_id";
  }
  if (H5Lexists(file_.get(), beside.c_str(), H5P_DEFAULT) > 0) {
    custom_ids_.emplace(open(beside), path_.string() + ": " + beside);
    if (custom_ids_->size() != rows)
      throw UsageError(path_.string() + ": " + beside + ": expected " + std::to_string(rows) +
                       " ids, one a prompt, found " + std::to_string(custom_ids_->size()));
  }
  open_body(object, name, input.body);
  range_ = range_of(input.shard, rows);
  row_ = range_.begin;
  if (rows > 0) file_bytes = std::filesystem::file_size(path_) / rows * (range_.end - range_.begin);
}

Hdf5Id Hdf5Prompts::Impl::open(const std::string& name) const {
  return {H5Oopen(file_.get(), name.c_str(), H5P_DEFAULT), H5Oclose, path_.string() + ": " + name};
}

void Hdf5Prompts::Impl::open_token_ids(const std::string& name) {
  for (const char* part : {"/ids", "/offsets"})
    if (H5Lexists(file_.get(), (name + part).c_str(), H5P_DEFAULT) <= 0)
      throw UsageError(path_.string() + ": " + name +
                       ": expected a group with ids and offsets, found none named " + (name + part));
  ids_.emplace(open(name + "/ids"), path_.string() + ": " + name + "/ids");
  offsets_.emplace(open(name + "/offsets"), path_.string() + ": " + name + "/offsets");
  if (offsets_->size() == 0)
    throw UsageError(path_.string() + ": " + name +
                     "/offsets: expected one entry more than there are prompts, found none");
}

void Hdf5Prompts::Impl::open_body(const Hdf5Id& object, const std::string& name, const std::string& given) {
  Json body = parse_body(text_attribute(object, "body", name), name + ": attribute body");
  body.update(parse_body(given, "--input-body"));
  const std::string fields = body.dump();
  tail_ = (body.empty() ? "" : "," + fields.substr(1, fields.size() - 2)) + "}}";
}

/// Reads `count` rows from row_ on; false when they take too much memory together.
bool Hdf5Prompts::Impl::try_block(uint64_t count) {
  const size_t most = count == 1 ? longest_line_ : kBlockBytes;
  if (custom_ids_ && !custom_ids_->read(row_, count, most, block_.custom_ids)) return false;
  if (texts_) {
    if (!texts_->read(row_, count, most, block_.texts)) return false;
  } else {
    block_.offsets = offsets_->read(row_, count + 1);
    for (size_t i = 0; i <= count; ++i)
      if (block_.offsets[i] < (i == 0 ? 0 : block_.offsets[i - 1]) ||
          static_cast<uint64_t>(block_.offsets[i]) > ids_->size())
        throw Error(path_.string() + ": offset " + std::to_string(row_ + i) +
                    ": expected at least the one before and at most " + std::to_string(ids_->size()) +
                    ", the number of ids, found " + std::to_string(block_.offsets[i]));
    const auto first = static_cast<uint64_t>(block_.offsets[0]);
    const uint64_t ids = static_cast<uint64_t>(block_.offsets[count]) - first;
    if (ids > most / sizeof(int64_t)) return false;
    block_.ids = ids_->read(first, ids);
  }
  block_.begin = row_;
  block_.rows = count;
  return true;
}

void Hdf5Prompts::Impl::load_block() {
  const QuietHdf5 quiet;
  block_.too_long = false;
  uint64_t count = std::min(kBlockRows, range_.end - row_);
  while (!try_block(count)) {
    if (count == 1) {
      block_.begin = row_;
      block_.rows = 1;
      block_.too_long = true;
      return;
    }
    count = (count + 7) / 8;
  }
}

LineSource::Status Hdf5Prompts::Impl::next(std::string& line) {
  if (row_ >= range_.end) return Status::end;
  if (row_ >= block_.begin + block_.rows || row_ < block_.begin) load_block();
  const size_t i = row_ - block_.begin;
  ++row_;
  line.clear();
  if (block_.too_long) return Status::too_long;
  line += "{\"custom_id\":";
  append_quoted(line, custom_ids_ ? block_.custom_ids[i] : "row-" + std::to_string(row_ - 1));
  line += ",\"url\":\"/v1/completions\",\"body\":{\"prompt\":";
  if (texts_) {
    append_quoted(line, block_.texts[i]);
  } else {
    line += '[';
    for (int64_t at = block_.offsets[i]; at < block_.offsets[i + 1]; ++at) {
      if (at > block_.offsets[i]) line += ',';
      line += std::to_string(block_.ids[static_cast<size_t>(at - block_.offsets[0])]);
    }
    line += ']';
  }
  line += tail_;
  return line.size() <= longest_line_ ? Status::line : Status::too_long;
}

Hdf5Prompts::Hdf5Prompts(const InputSpec& input, size_t longest_line) {
  const QuietHdf5 quiet;
  impl_ = std::make_unique<Impl>(input, longest_line);
}

Hdf5Prompts::~Hdf5Prompts() = default;

LineSource::Status Hdf5Prompts::next(std::string& line) {
  const Status status = impl_->next(line);
  if (status == Status::too_long) line.clear();
  return status;
}

uint64_t Hdf5Prompts::line_number() const {
  return impl_->row();
}
uint64_t Hdf5Prompts::rows() const {
  return impl_->rows();
}
uint64_t Hdf5Prompts::total_bytes() const {
  return impl_->file_bytes;
}
uint64_t Hdf5Prompts::bytes_read() const {
  return impl_->rows() == 0 ? 0 : impl_->file_bytes / impl_->rows() * impl_->given();
}

}  // namespace penstock
