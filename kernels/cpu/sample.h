// Draws a token from one row of logits by the rules of kernels/sampling.h, without sorting the row. Each
// thread has its own sampler.
#pragma once

#include <span>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/ops.h"

namespace penstock::cpu {

class RowSampler {
 public:
  explicit RowSampler(const KernelTable& kernels) : kernels_(kernels) {}
  Sampled operator()(std::span<const float> logits_V, const SampleParams& params);
  Sampled operator()(std::span<const float> logits_V, const ScoreParams& params);

 private:
  /// Finds the row's maxima; the row again, in `clean_` if it held what is no number. Its largest is
  /// `largest_`; `finite_` says whether all of it were numbers.
  std::span<const float> look_at(std::span<const float> logits_V);
  int32_t first_of(std::span<const float> logits_V, float value) const;
  int32_t draw(std::span<const float> logits_V, float largest, const SampleParams& params);
  void gather_top(std::span<const float> logits_V, size_t k);
  struct Nucleus {
    float lowest = 0;   // the smallest weight kept
    double above = 0;   // sum of the larger ones
    double target = 0;  // p times the whole sum
  };
  Nucleus find_nucleus(float p);
  void drop_spare_ties(const Nucleus& nucleus);
  double weigh(std::span<const float> x, float largest, float temperature, float min_p);
  void add_logprobs(Sampled& sampled, std::span<const float> logits_V, float largest, int32_t alternatives);

  const KernelTable& kernels_;
  float largest_ = 0;
  bool finite_ = true;
  std::vector<float> ruled_;       // the row as its rules leave it, if it has some
  std::vector<float> clean_;       // the row without NaN and +inf, if it had any
  std::vector<float> maxima_;      // of each block of 64 logits
  std::vector<float> bounds_;      // scratch for selections
  std::vector<float> top_values_;  // the largest logits, in the order of their ids
  std::vector<int32_t> top_ids_;
  std::vector<float> weights_;
  std::vector<float> sums_;  // of each block of 64 weights
  std::vector<double> digit_sums_;
  std::vector<int32_t> ties_;  // places in weights_
};

}  // namespace penstock::cpu
