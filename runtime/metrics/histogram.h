// Counts of observations in fixed buckets, as Prometheus keeps them. A value type; not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

namespace penstock {

class Histogram {
 public:
  /// `bounds` ascend; the bucket of everything above the last one is added.
  explicit Histogram(std::vector<double> bounds);

  void observe(double value, uint64_t times = 1);

  const std::vector<double>& bounds() const { return bounds_; }
  /// By bucket, not summed up; one more than bounds().
  const std::vector<uint64_t>& counts() const { return counts_; }
  uint64_t count() const { return count_; }
  double sum() const { return sum_; }
  /// The value below which the share `q` of all observations lies, linear within a bucket as Prometheus's
  /// histogram_quantile; the last bound for what lies above it, 0 when nothing was observed.
  double quantile(double q) const;
  /// What was observed here and not yet in `earlier`, a former copy of this histogram.
  Histogram since(const Histogram& earlier) const;

 private:
  std::vector<double> bounds_;
  std::vector<uint64_t> counts_;
  uint64_t count_ = 0;
  double sum_ = 0;
};

}  // namespace penstock
