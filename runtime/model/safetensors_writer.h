// Writes one safetensors file, tensor by tensor: the header first, as all sizes are known, then the data as
// it comes. The file appears under its name when it is complete. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace penstock {

class SafetensorsWriter {
 public:
  struct Planned {
    std::string name;
    std::string dtype;  // as the file spells it: "F8_E4M3"
    std::vector<int64_t> shape;
    uint64_t bytes = 0;
  };
  /// Throws UsageError when the file cannot be written.
  SafetensorsWriter(std::filesystem::path path, const std::vector<Planned>& tensors);
  /// The data of the tensors, one after the other in the order of the plan, in pieces of any size.
  void write(std::span<const char> bytes);
  /// Throws Error unless exactly the planned bytes were written.
  void finish();

 private:
  std::filesystem::path path_;
  std::filesystem::path partial_;
  std::ofstream file_;
  uint64_t left_ = 0;
};

}  // namespace penstock
