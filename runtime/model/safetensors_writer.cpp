#include "runtime/model/safetensors_writer.h"

#include <nlohmann/json.hpp>

#include "runtime/base/error.h"

namespace penstock {

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, const std::vector<Planned>& tensors)
    : path_(std::move(path)), partial_(path_) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  for (const Planned& t : tensors) {
    header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {left_, left_ + t.bytes}}};
    left_ += t.bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the data starts aligned, as other writers do it
  partial_ += ".partial";
  file_.open(partial_, std::ios::binary | std::ios::trunc);
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(static_cast<uint64_t>(text.size()) >> (8 * i));
  file_ << length << text;
  if (!file_) throw UsageError(path_.string() + ": cannot be written; name a folder that may be written");
}

void SafetensorsWriter::write(std::span<const char> bytes) {
  ensure(bytes.size() <= left_, "a safetensors file takes the bytes it was planned for");
  left_ -= bytes.size();
  file_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file_) throw Error(path_.string() + ": writing failed; is the disk full?");
}

void SafetensorsWriter::finish() {
  ensure(left_ == 0, "a safetensors file takes the bytes it was planned for");
  file_.close();
  if (!file_) throw Error(path_.string() + ": writing failed; is the disk full?");
  std::filesystem::rename(partial_, path_);
}

}  // namespace penstock
