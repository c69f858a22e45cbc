// The routed experts of one layer: their weights are read with the rest of the stage, or each when a row is
// first routed to it. Driven by the stage's thread.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/model/config.h"
#include "runtime/pipeline/stage.h"
#include "stages/loading.h"

namespace penstock {

class Experts {
 public:
  /// `prefix` is "model.layers.7.mlp.experts.". Every expert's tensors are checked, also of those read later.
  Experts(const BuildContext& context, const MoeConfig& config, std::string prefix);

  /// Before the products: reads what is missing of the experts that have a pair, all in one go. With lazy
  /// experts `routing` must be host memory. Throws Error when a file cannot be read any more, or when memory
  /// has no room; what was there before stays usable.
  void prepare(const RoutingView& routing);

  /// By expert; null where prepare never saw a pair of it. Rows: gate, then up.
  std::span<const Matrix* const> gate_up() const { return gate_up_pointers_; }
  std::span<const Matrix* const> down() const { return down_pointers_; }

  ExpertUse use() const;  ///< any thread

 private:
  std::vector<WeightPart> gate_up_parts(int64_t expert) const;
  std::vector<WeightPart> down_parts(int64_t expert) const;
  void read(int64_t expert);
  void read_missing();
  void require_memory() const;

  MatrixSource from_;
  Device& device_;
  std::string prefix_;
  int64_t hidden_;
  int64_t width_;
  bool on_host_;
  uint64_t bytes_each_ = 0;
  std::vector<std::unique_ptr<Matrix>> gate_up_;
  std::vector<std::unique_ptr<Matrix>> down_;
  std::vector<const Matrix*> gate_up_pointers_;
  std::vector<const Matrix*> down_pointers_;
  std::vector<int64_t> missing_;  // of the micro-batch at hand
  // Written by the stage's thread, read by whoever reports.
  std::atomic<uint64_t> held_{0};
  std::atomic<uint64_t> hits_{0};
  std::atomic<int64_t> read_ns_{0};
};

}  // namespace penstock
