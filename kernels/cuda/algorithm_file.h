// The algorithms that were fastest, kept in a file between jobs where the user asks for it: a line each,
// behind one that names the library and the device. A file of another library or device is begun anew. What
// is read is a proposal: whoever uses it checks its bits.
#pragma once

#include <cublasLt.h>

#include <compare>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "runtime/device/tensor.h"

namespace penstock::cuda {

/// What decides the kernels that may serve a product: N, K, weight dtype, output dtype, bias, add.
struct ProductKind {
  int64_t n, k;
  DType weight, out;
  bool bias, add;
  auto operator<=>(const ProductKind&) const = default;
};

/// One of cuBLASLt's, or the skinny kernel.
struct ProductAlgorithm {
  bool skinny = false;
  cublasLtMatmulAlgo_t cublaslt{};
};

class AlgorithmFile {
 public:
  /// `made_for` is one line. Throws UsageError when `path` can be neither read nor made.
  AlgorithmFile(std::string path, const std::string& made_for);

  /// For products of M up to `range` rows; none where the file has none.
  std::optional<ProductAlgorithm> find(const ProductKind& kind, int64_t range) const;
  /// Appends. Several processes may: lines are written whole.
  void add(const ProductKind& kind, int64_t range, const ProductAlgorithm& algorithm);

 private:
  std::string path_;
  std::map<std::pair<ProductKind, int64_t>, ProductAlgorithm> known_;
};

}  // namespace penstock::cuda
