// Where weights come from: a checkpoint on disk or a random number generator. A stage asks for its own
// tensors by their Hugging Face names; nothing else is read. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "runtime/device/tensor.h"

namespace penstock {

/// Takes rows [first_row, first_row + rows.dim(0)) of a tensor, in order. `rows` is host memory in the file's
/// dtype (f32, bf16 or f16), valid during the call only.
using TakeRows = std::function<void(int64_t first_row, const TensorView& rows)>;

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Streams the tensor in chunks of a few MiB. Throws UsageError when it is missing, has another shape
  /// ("...: expected [192, 192], found [192, 64]") or a dtype that is not supported.
  virtual void read(const std::string& name, const Shape& expected, const TakeRows& take) = 0;
  /// Whether the tensor is kept in FP8 E4M3, with scales beside it; read then refuses it and read_fp8 gives
  /// its bytes as rows of DType::e4m3.
  virtual bool is_fp8(const std::string& name) const = 0;
  virtual void read_fp8(const std::string& name, const Shape& expected, const TakeRows& take) = 0;
  /// Throws what read, or read_fp8 of a tensor kept in FP8, would say of its name, shape and dtype; reads
  /// nothing.
  virtual void check(const std::string& name, const Shape& expected) const = 0;
  /// The tensor is going to be read soon: what holds it may fetch it meanwhile. Of one that is not there
  /// nothing is said.
  virtual void announce(const std::string& name) const = 0;
  /// Bytes of tensor data read so far. Summed over the ranks of a job: the size of the model.
  virtual int64_t bytes_read() const = 0;
};

/// model.safetensors, or the shards that model.safetensors.index.json names. Checks every header (a truncated
/// or missing file is found here, whichever rank would need it) and reads tensors later by byte range.
std::unique_ptr<WeightSource> open_checkpoint(const std::filesystem::path& model_dir);

/// --load-format dummy: small random weights. A value depends on (seed, tensor name, element) only, so that
/// every cut of a model sees the same ones.
std::unique_ptr<WeightSource> make_dummy_weights(uint64_t seed);

}  // namespace penstock
