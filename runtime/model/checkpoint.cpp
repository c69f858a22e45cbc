#include <algorithm>
#include <array>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/base/json_file.h"
#include "runtime/model/safetensors.h"
#include "runtime/model/weight_source.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

// Large enough for one request to be efficient; several under way keep a disk or a network file system busy
// while the chunk that has come is put to use.
constexpr uint64_t kChunkBytes = 4U << 20;
constexpr size_t kReadsInFlight = 4;

constexpr const char* kPlain = "F32, BF16 or F16";
constexpr const char* kFp8 = "F8_E4M3";

std::optional<DType> weight_dtype(const std::string& name) {
  if (name == "F32") return DType::f32;
  if (name == "BF16") return DType::bf16;
  if (name == "F16") return DType::f16;
  return std::nullopt;
}

std::string text_of(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

bool same(const std::vector<int64_t>& found, const Shape& expected) {
  if (static_cast<int>(found.size()) != expected.rank()) return false;
  for (int i = 0; i < expected.rank(); ++i)
    if (found[static_cast<size_t>(i)] != expected[i]) return false;
  return true;
}

class Checkpoint final : public WeightSource {
 public:
  explicit Checkpoint(const fs::path& dir) : dir_(dir) {
    const fs::path single = dir / "model.safetensors";
    const fs::path index = dir / "model.safetensors.index.json";
    std::error_code ignored;
    if (fs::exists(single, ignored))
      files_.emplace_back(single);
    else if (fs::exists(index, ignored))
      open_shards(index);
    else
      throw UsageError(dir.string() +
                       ": expected model.safetensors or model.safetensors.index.json, found neither");
    for (const SafetensorsFile& file : files_)
      for (const auto& [name, entry] : file.entries()) tensors_.emplace(name, Located{&file, &entry});
  }

  void read(const std::string& name, const Shape& expected, const TakeRows& take) override {
    stream(name, expected, plain_dtype(name), kPlain, take);
  }

  bool is_fp8(const std::string& name) const override { return locate(name).entry->dtype == kFp8; }
  void read_fp8(const std::string& name, const Shape& expected, const TakeRows& take) override {
    stream(name, expected, is_fp8(name) ? std::optional(DType::e4m3) : std::nullopt, kFp8, take);
  }

  void check(const std::string& name, const Shape& expected) const override {
    check(locate(name), name, expected, is_fp8(name) ? DType::e4m3 : plain_dtype(name), kPlain);
  }
  void announce(const std::string& name) const override {
    const auto it = find(name);
    if (it != tensors_.end()) it->second.file->announce(it->second.entry->offset, it->second.entry->bytes);
  }

  int64_t bytes_read() const override { return bytes_read_; }

 private:
  struct Located {
    const SafetensorsFile* file;
    const SafetensorsFile::Entry* entry;
  };

  std::optional<DType> plain_dtype(const std::string& name) const {
    return weight_dtype(locate(name).entry->dtype);
  }

  static void check(const Located& found, const std::string& name, const Shape& expected,
                    std::optional<DType> dtype, const char* expected_dtype) {
    ensure(expected.rank() == 1 || expected.rank() == 2, "weights have one or two dimensions");
    const std::string where = found.file->path().string() + ": " + name + ": ";
    if (!same(found.entry->shape, expected))
      throw UsageError(where + "expected " + expected.text() + ", found " + text_of(found.entry->shape));
    if (!dtype) throw UsageError(where + "expected " + expected_dtype + ", found " + found.entry->dtype);
  }

  void stream(const std::string& name, const Shape& expected, std::optional<DType> dtype,
              const char* expected_dtype, const TakeRows& take) {
    const Located found = locate(name);
    check(found, name, expected, dtype, expected_dtype);
    const int64_t rows = expected[0];
    const int64_t columns = expected.rank() == 2 ? expected[1] : 1;
    const uint64_t row_bytes = static_cast<uint64_t>(columns) * bytes_of(*dtype);
    const auto step =
        static_cast<int64_t>(std::max<uint64_t>(1, kChunkBytes / std::max<uint64_t>(1, row_bytes)));
    const auto chunks = static_cast<size_t>((rows + step - 1) / step);
    const auto rows_of = [&](size_t chunk) {
      return std::min(step, rows - static_cast<int64_t>(chunk) * step);
    };

    // A ring of reads under way; the destructor of an unfinished one waits, so no buffer is left in use.
    std::array<std::future<void>, kReadsInFlight> reads;
    const auto start = [&](size_t chunk) {
      std::vector<uint32_t>& buffer = buffers_[chunk % kReadsInFlight];
      const uint64_t bytes = static_cast<uint64_t>(rows_of(chunk)) * row_bytes;
      buffer.resize(bytes / sizeof(uint32_t) + 1);
      const uint64_t offset = found.entry->offset + chunk * static_cast<uint64_t>(step) * row_bytes;
      reads[chunk % kReadsInFlight] = std::async(
          chunks == 1 ? std::launch::deferred : std::launch::async,
          [file = found.file, offset, to = buffer.data(), bytes] { file->read(offset, to, bytes); });
    };
    for (size_t chunk = 0; chunk < std::min(chunks, kReadsInFlight); ++chunk) start(chunk);
    for (size_t chunk = 0; chunk < chunks; ++chunk) {
      reads[chunk % kReadsInFlight].get();
      const int64_t count = rows_of(chunk);
      bytes_read_ += count * static_cast<int64_t>(row_bytes);
      take(static_cast<int64_t>(chunk) * step, {buffers_[chunk % kReadsInFlight].data(), *dtype,
                                                expected.rank() == 2 ? Shape{count, columns} : Shape{count}});
      if (chunk + kReadsInFlight < chunks) start(chunk + kReadsInFlight);
    }
  }

  void open_shards(const fs::path& index) {
    const nlohmann::json json = read_json_file(index);
    const auto map = json.find("weight_map");
    if (map == json.end() || !map->is_object())
      throw UsageError(index.string() + ": expected a weight_map from tensor names to file names");
    std::map<std::string, std::vector<std::string>> names_of;  // by file, in order
    for (const auto& [name, file] : map->items()) {
      // A file name only: an index may not lead out of its folder.
      if (!file.is_string() || fs::path(file.get<std::string>()).filename() != file.get<std::string>())
        throw UsageError(index.string() + ": " + name +
                         ": expected the name of a file beside the index, found " + file.dump());
      names_of[file.get<std::string>()].push_back(name);
    }
    std::string missing;
    std::error_code ignored;
    for (const auto& [file, names] : names_of)
      if (!fs::exists(dir_ / file, ignored)) missing += (missing.empty() ? "" : ", ") + file;
    if (!missing.empty())
      throw UsageError(dir_.string() + ": shards named in the index are missing: " + missing);
    for (const auto& [file, names] : names_of) {
      files_.emplace_back(dir_ / file);
      for (const std::string& name : names)
        if (!files_.back().entries().contains(name))
          throw UsageError((dir_ / file).string() + ": expected tensor " + name +
                           " (so the index says), found none");
    }
  }

  /// Some checkpoints hold the bare decoder, without the "model." in front.
  std::unordered_map<std::string, Located>::const_iterator find(const std::string& name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() && name.starts_with("model.") ? tensors_.find(name.substr(6)) : it;
  }
  Located locate(const std::string& name) const {
    const auto it = find(name);
    if (it == tensors_.end())
      throw UsageError(dir_.string() + ": tensor " + name + " is missing from the checkpoint");
    return it->second;
  }

  fs::path dir_;
  std::vector<SafetensorsFile> files_;
  std::unordered_map<std::string, Located> tensors_;
  std::array<std::vector<uint32_t>, kReadsInFlight> buffers_;  // words, so that float32 rows are aligned
  int64_t bytes_read_ = 0;
};

}  // namespace

std::unique_ptr<WeightSource> open_checkpoint(const fs::path& model_dir) {
  return std::make_unique<Checkpoint>(model_dir);
}

}  // namespace penstock
