// Model folders for tests: where the checkpoints lie, and folders made up on the spot.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/error.h"

namespace penstock::test {

/// Checkpoints made for this project's tests; they lie in the repository.
inline std::filesystem::path own_models() {
  return std::filesystem::path(PENSTOCK_SOURCE_DIR) / "tests/models";
}

/// The folder shared between the project's machines; absent from a plain clone.
inline std::filesystem::path shared_models() {
  const char* shared = std::getenv("PENSTOCK_SHARED");
  return shared != nullptr ? std::filesystem::path(shared) / "models"
                           : std::filesystem::path(PENSTOCK_SOURCE_DIR) / "../shared/models";
}

/// A new empty folder, gone when this object is.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ / name, std::ios::binary) << bytes;
  }

 private:
  std::filesystem::path path_;
};

/// A tensor for `safetensors_bytes`.
struct RawTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};

template <class T>
std::string raw(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return raw(std::vector<uint64_t>{header.size()}) + header + data;
}

inline std::string safetensors_bytes(const std::vector<RawTensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const RawTensor& t : tensors) {
    header[t.name] = {
        {"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {data.size(), data.size() + t.data.size()}}};
    data += t.data;
  }
  return safetensors_bytes(header.dump(), data);
}

/// The message of the UsageError that `action` throws; fails the test when it throws none.
template <class Action>
std::string usage_error(Action action) {
  try {
    action();
  } catch (const UsageError& e) {
    return e.what();
  }
  ADD_FAILURE() << "expected a UsageError, found none";
  return "";
}

}  // namespace penstock::test

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << "found: " << (text)
