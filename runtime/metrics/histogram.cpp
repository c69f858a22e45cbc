#include "runtime/metrics/histogram.h"

#include <algorithm>
#include <utility>

#include "runtime/base/error.h"

namespace penstock {

Histogram::Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {
  ensure(!bounds_.empty() && std::is_sorted(bounds_.begin(), bounds_.end()), "a histogram's bounds ascend");
}

void Histogram::observe(double value, uint64_t times) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(bucket)] += times;
  count_ += times;
  sum_ += value * static_cast<double>(times);
}

double Histogram::quantile(double q) const {
  if (count_ == 0) return 0;
  const double wanted = std::clamp(q, 0.0, 1.0) * static_cast<double>(count_);
  double below = 0;
  for (size_t b = 0; b < bounds_.size(); ++b) {
    const auto here = static_cast<double>(counts_[b]);
    if (here > 0 && below + here >= wanted) {
      const double from = b == 0 ? 0 : bounds_[b - 1];
      return from + (bounds_[b] - from) * (wanted - below) / here;
    }
    below += here;
  }
  return bounds_.back();
}

Histogram Histogram::since(const Histogram& earlier) const {
  ensure(bounds_ == earlier.bounds_, "only copies of one histogram can be compared");
  Histogram difference(bounds_);
  for (size_t b = 0; b < counts_.size(); ++b) difference.counts_[b] = counts_[b] - earlier.counts_[b];
  difference.count_ = count_ - earlier.count_;
  difference.sum_ = sum_ - earlier.sum_;
  return difference;
}

}  // namespace penstock
